#!/usr/bin/env bash
# A second Docker Engine beside the machine's own, set up as daemon.json here says: second-engine.sh start | stop FOLDER
#
#   start  start it; everything of it lies in FOLDER, its socket is FOLDER/docker.sock
#   stop   stop it and remove FOLDER's data
#
# For tests, as root. It has user-namespace remap on, no network, and a runtime called "nvidia" that is an alias
# of runc. The machine's users are left alone: the ranges of subordinate ids are seen by this Engine only.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
first_id=${ASSAY_REMAP_FIRST_ID:-1100000}
start_time_s=${ASSAY_ENGINE_START_TIME_S:-60}

fail() {
  printf '%s\n' "assay: $*" >&2
  exit 1
}

# daemon.json as it is, but for what only a second Engine needs.
write_config() {
  python3 - "$here/daemon.json" "$1" "$(command -v runc)" >"$1/daemon.json" <<'PYTHON'
import json, sys
source, folder, runc = sys.argv[1:]
config = json.load(open(source, encoding="utf-8"))
config |= {
    "userns-remap": "nobody:nogroup",
    "data-root": f"{folder}/data",
    "exec-root": f"{folder}/exec",
    "pidfile": f"{folder}/dockerd.pid",
    "hosts": [f"unix://{folder}/docker.sock"],
    "iptables": False,
    "bridge": "none",
    "runtimes": {"nvidia": {"path": runc}},
}
del config["icc"]  # there is no bridge
json.dump(config, sys.stdout, indent=1)
PYTHON
}

start() {
  local folder=$1 waited_s=0 daemon
  [ "$(id -u)" -eq 0 ] || fail "a second Engine has to be started as root"
  mkdir -p "$folder"
  chmod 711 "$folder" # the remapped users pass through
  write_config "$folder"
  printf '%s\n' "nobody:$first_id:65536" "nogroup:$first_id:65536" >"$folder/ids"
  # In a mount namespace of its own, so that neither the ids nor the containers' mounts show outside.
  # shellcheck disable=SC2016  # the inner shell expands it
  setsid unshare --mount --propagation private bash -c '
    for file in /etc/subuid /etc/subgid; do
      [ -e "$file" ] || : >"$file"
      mount --bind "$1/ids" "$file"
    done
    exec dockerd --config-file "$1/daemon.json"' _ "$folder" >"$folder/log" 2>&1 </dev/null &
  daemon=$!
  until DOCKER_HOST=unix://$folder/docker.sock timeout 10 docker version >/dev/null 2>&1; do
    kill -0 "$daemon" 2>/dev/null || fail "the second Engine ended: $(tail -n 5 "$folder/log")"
    [ "$waited_s" -lt "$start_time_s" ] || fail "the second Engine does not answer: $(tail -n 5 "$folder/log")"
    sleep 1
    waited_s=$((waited_s + 1))
  done
}

stop() {
  local folder=$1 pid waited_s=0
  pid=$(cat "$folder/dockerd.pid" 2>/dev/null || true)
  if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do
      [ "$waited_s" -lt 30 ] || fail "the second Engine (process $pid) does not end"
      sleep 1
      waited_s=$((waited_s + 1))
    done
  fi
  rm -rf "$folder/data" "$folder/exec" "$folder/docker.sock" "$folder/daemon.json" "$folder/ids"
}

case ${1:-} in
  start | stop) [ -n "${2:-}" ] || fail "which folder?"; "$1" "$(realpath -m "$2")" ;;
  *) fail "usage: infra/host/second-engine.sh start | stop FOLDER" ;;
esac

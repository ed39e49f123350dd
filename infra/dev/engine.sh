#!/usr/bin/env bash
# A Docker Engine for development and tests: engine.sh start | stop | status | run COMMAND…
#
#   start   use the Engine that answers, else install Debian's (as root) and start it
#   stop    stop the Engine that `start` started; never another one
#   status  say which Engine answers, exit 1 when none does
#   run     start, run COMMAND, and stop again if this call started the Engine
#
# DOCKER_HOST (unix:///…) says where the Engine is or is to listen. ASSAY_DOCKERD_FLAGS adds flags to
# dockerd, such as --data-root for a second Engine beside another. Logs: .build/dockerd.log.
set -euo pipefail
# shellcheck source=infra/dev/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

address=${DOCKER_HOST:-unix:///var/run/docker.sock}
pidfile=$build/dockerd.pid
log=$build/dockerd.log
start_time_s=${ASSAY_ENGINE_START_TIME_S:-60}
read -r -a extra_flags <<<"${ASSAY_DOCKERD_FLAGS:-}"

answers() { timeout 10 docker --host "$address" version --format '{{.Server.Version}}' 2>/dev/null; }

ours_runs() {
  [ -s "$pidfile" ] && [ "$(cat "/proc/$(cat "$pidfile")/comm" 2>/dev/null)" = dockerd ]
}

install_missing() {
  local missing=()
  if ! command -v docker >/dev/null || { ! answers >/dev/null && ! command -v dockerd >/dev/null; }; then
    missing+=(docker.io)
  fi
  command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
  [ "${#missing[@]}" -eq 0 ] || debian_install "${missing[@]}"
}

# On a machine with systemd Debian's unit owns the default socket; ours would fight with it.
start_by_systemd() {
  [ -z "${DOCKER_HOST:-}" ] && [ -d /run/systemd/system ] && [ "$(id -u)" -eq 0 ] &&
    systemctl start docker.service 2>>"$log" && answers >/dev/null
}

# launch FLAG…: start dockerd apart from this shell and wait until it answers or ends.
launch() {
  local waited_s=0
  # Lock files and make's pipes must not be held open by a daemon, hence the closed descriptors.
  setsid dockerd --host "$address" --pidfile "$pidfile" "${extra_flags[@]}" "$@" \
    >>"$log" 2>&1 </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  local daemon=$!
  until answers >/dev/null; do
    kill -0 "$daemon" 2>/dev/null || return 1
    if [ "$waited_s" -ge "$start_time_s" ]; then
      kill "$daemon" 2>/dev/null || true
      wait "$daemon" 2>/dev/null || true
      return 1
    fi
    sleep 1
    waited_s=$((waited_s + 1))
  done
}

start() {
  local version
  install_missing || return 1
  exec 9>"$build/engine.lock"
  flock 9
  : >"$log"
  if version=$(answers) || { start_by_systemd && version=$(answers); }; then
    say "using the Docker Engine $version that answers at $address"
    return 0
  fi
  case $address in
    unix://*) ;;
    *)
      say "no Docker Engine answers at $address, and only a unix:// address can be started here" >&2
      return 1
      ;;
  esac
  if [ "$(id -u)" -ne 0 ]; then
    say "no Docker Engine answers at $address; start one, or run this as root" >&2
    return 1
  fi
  mkdir -p "$(dirname "${address#unix://}")"
  say "starting a Docker Engine (log: ${log#"$root"/})"
  if ! launch; then
    # Kernels without the usual netfilter modules: sandboxes have no network anyway.
    say "it did not come up; trying without iptables and bridge"
    launch --iptables=false --bridge=none || {
      say "dockerd does not start on this machine; the end of $log:" >&2
      tail -n 15 "$log" >&2
      return 1
    }
  fi
  started_here=yes
  say "Docker Engine $(answers) is up at $address; 'make engine-stop' stops it"
}

stop() {
  if ! ours_runs; then
    say "no Docker Engine of ours is running"
    rm -f "$pidfile"
    return 0
  fi
  local pid waited_s=0
  pid=$(cat "$pidfile")
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do
    [ "$waited_s" -lt 30 ] || fail "dockerd (process $pid) does not end; see $log"
    sleep 1
    waited_s=$((waited_s + 1))
  done
  rm -f "$pidfile"
  say "stopped the Docker Engine that was started here"
}

status() {
  local version
  if version=$(answers); then
    say "Docker Engine $version answers at $address$(ours_runs && echo ', started from this folder')"
  else
    say "no Docker Engine answers at $address"
    return 1
  fi
}

run() {
  started_here=no
  start || fail "these tests need a Docker Engine; see the lines above"
  flock --unlock 9
  trap '[ "$started_here" = no ] || stop' EXIT
  "$@" 9>&-
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  start | stop | status | run) "$command" "$@" ;;
  *) fail "usage: infra/dev/engine.sh start | stop | status | run COMMAND…" ;;
esac

# shellcheck shell=bash
# Shared by the scripts of this folder; source it, do not run it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$root/.build
mkdir -p "$build"

say() { printf '%s\n' "assay: $*"; }
fail() {
  printf '%s\n' "assay: $*" >&2
  exit 1
}

# step LOG TITLE COMMAND…: run COMMAND with its output in LOG, and show that it is alive.
# A failure prints the end of LOG and returns the command's status.
step() {
  local log=$1 title=$2 started=$SECONDS status=0 job
  shift 2
  if [ -t 1 ]; then
    "$@" >"$log" 2>&1 </dev/null &
    job=$!
    # Bash shields background commands from Ctrl-C, so it has to be passed on.
    # shellcheck disable=SC2064
    trap "kill $job 2>/dev/null; exit 130" INT TERM
    while kill -0 "$job" 2>/dev/null; do
      printf '\r%s … %d s ' "$title" "$((SECONDS - started))"
      sleep 0.5
    done
    wait "$job" || status=$?
    trap - INT TERM
    printf '\r'
  else
    printf '%s …\n' "$title"
    "$@" >"$log" 2>&1 </dev/null || status=$?
  fi
  if [ "$status" -eq 0 ]; then
    printf '%s … done in %d s\n' "$title" "$((SECONDS - started))"
  else
    printf '%s … failed after %d s; the end of %s:\n' "$title" "$((SECONDS - started))" "$log" >&2
    tail -n 25 "$log" >&2
  fi
  return "$status"
}

# debian_install PACKAGE…: install Debian packages, or say why that cannot be done here.
debian_install() {
  if ! command -v apt-get >/dev/null; then
    say "this machine has no apt-get; install these yourself: $*" >&2
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    say "not root; run: apt-get install $*" >&2
    return 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  step "$build/apt.log" "Reading the package lists" apt-get update || return 1
  step "$build/apt.log" "Installing $*" apt-get install --yes --no-install-recommends "$@"
}

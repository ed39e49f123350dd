#!/usr/bin/env bash
# Make .venv from the locked, hashed requirements: venv.sh [--dev]
#
# Quick when nothing changed: each part leaves a stamp with the hash of the files it came from.
# Parts: runtime (Assay's own dependencies and torch), dev (with --dev), project (Assay itself).
set -euo pipefail
# shellcheck source=infra/dev/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

python=${PYTHON:-python3.11}
venv=$root/.venv
log=$build/venv.log
pip=("$venv/bin/python" -m pip install --no-input --disable-pip-version-check --no-deps)

exec 9>"$build/venv.lock"
if ! flock --nonblock 9; then
  say "another process is making the virtual environment; waiting for it"
  flock 9
fi

make_venv() {
  command -v "$python" >/dev/null || fail "$python not found; install Python 3.11 or newer and set PYTHON to it"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than 3.11"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    debian_install "$(basename "$python")-venv" || fail "$python cannot make virtual environments without it"
  fi
  step "$log" "Making the virtual environment with $python" "$python" -m venv --clear "$venv"
}

# part_is_stale NAME FILE…: succeed when FILEs are not what part NAME was last installed from.
part_is_stale() {
  local name=$1
  shift
  [ "$(sha256sum "$@" 2>/dev/null)" != "$(cat "$venv/.assay-$name" 2>/dev/null)" ]
}
stamp() {
  local name=$1
  shift
  sha256sum "$@" >"$venv/.assay-$name"
}

install_locked() { # TITLE LOCK
  step "$log" "$1" "${pip[@]}" --require-hashes --requirement "$2" ||
    fail "pip could not install $2. A hash that differs means a file that is not in the lock (CONTRIBUTING.md, Locks)."
}

pip_finds_cpu_torch() {
  local pinned
  pinned=$(grep -o '^torch==[^ ]*' requirements/torch.txt)
  "${pip[@]}" --dry-run --ignore-installed "$pinned" >"$log" 2>&1 ||
    ! grep -q 'No matching distribution' "$log"
}

install_torch() {
  say "looking for a CPU build of PyTorch"
  if pip_finds_cpu_torch; then
    install_locked "Installing PyTorch (the longest step)" requirements/torch.txt
  else
    say "pip finds none, so the public index's build comes with its GPU libraries: several gigabytes."
    say "To avoid them, stop here, point pip at a CPU build (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL) and try again."
    install_locked "Installing PyTorch and its GPU libraries" requirements/torch-cuda.txt
  fi
  "$venv/bin/python" -c 'import torch' || fail "torch was installed but cannot be imported"
}

"$venv/bin/python" -c 'import pip' 2>/dev/null || make_venv

runtime=(requirements/runtime.txt requirements/torch.txt requirements/torch-cuda.txt)
if part_is_stale runtime "${runtime[@]}"; then
  install_locked "Installing what Assay imports" requirements/runtime.txt
  install_torch
  stamp runtime "${runtime[@]}"
fi

if [ "${1:-}" = --dev ] && part_is_stale dev requirements/dev.txt; then
  install_locked "Installing what tests and checks need" requirements/dev.txt
  stamp dev requirements/dev.txt
fi

if part_is_stale project pyproject.toml; then
  step "$log" "Installing Assay itself" "${pip[@]}" --no-build-isolation --editable . ||
    fail "pip could not install this folder as a package"
  stamp project pyproject.toml
fi

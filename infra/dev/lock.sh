#!/usr/bin/env bash
# Renew requirements/*.txt: install the locked uv into a scratch environment, run lock.py with it.
set -euo pipefail
# shellcheck source=infra/dev/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

scratch=$build/lock-venv
log=$build/lock.log

step "$log" "Making a scratch environment" "${PYTHON:-python3.11}" -m venv --clear "$scratch"
step "$log" "Installing the resolver" \
  "$scratch/bin/python" -m pip install --no-input --disable-pip-version-check \
  --no-deps --require-hashes --requirement requirements/lock.txt
PATH=$scratch/bin:$PATH "$scratch/bin/python" infra/dev/lock.py

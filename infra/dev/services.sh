#!/usr/bin/env bash
# PostgreSQL and Redis for the tests of the service, from Debian's packages: services.sh [--browser]
#
# --browser adds Chromium and two fonts, for the tests that look at pages.
#
# Installs what is missing (as root) and starts nothing: tests start servers of their own, on unix
# sockets in temporary folders, and end them.
set -euo pipefail
# shellcheck source=infra/dev/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

policy=/usr/sbin/policy-rc.d

have_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

missing=()
have_postgresql || missing+=(postgresql)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v curl >/dev/null || missing+=(curl)     # samples of the README and the pages
command -v node >/dev/null || missing+=(nodejs)
if [ "${1:-}" = --browser ] && ! command -v chromium >/dev/null; then
  missing+=(chromium fonts-dejavu-core fonts-liberation)
fi
[ "${#missing[@]}" -gt 0 ] || exit 0

# The packages start servers for the whole machine, which nobody asked for.
if [ "$(id -u)" -eq 0 ] && [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
debian_install "${missing[@]}" || fail "the tests of the service need ${missing[*]}; see the lines above"

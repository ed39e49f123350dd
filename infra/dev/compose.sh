#!/usr/bin/env bash
# Docker Compose v2, from Debian's packages where it is missing: compose.sh
#
# Debian 12 has only version 1. The package of the next suite needs nothing but what 12 has, so it is fetched from
# there, by a copy of the machine's own source entry with the suite's name changed. The entry stays in .build: apt's
# own configuration is not touched, and nothing else can be upgraded by it.
set -euo pipefail
# shellcheck source=infra/dev/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

log=$build/compose.log
folder=$build/next-suite

answers() { docker compose version --short 2>/dev/null | grep -Eq '^v?([2-9]|[1-9][0-9])\.'; }

next_suite() {
  case $1 in
    bookworm) echo trixie ;;
    *) return 1 ;;
  esac
}

# copy_entries SUITE NEXT: apt's entries for SUITE itself, not for its updates, written for NEXT.
copy_entries() {
  local file paragraph
  rm -rf "$folder"
  mkdir -p "$folder/sources" "$folder/lists/partial" "$folder/packages"
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -r "$file" ] || continue
    while IFS= read -r -d '' paragraph; do
      grep -Eq "^Suites:(.* )?$1( |\$)" <<<"$paragraph" || continue
      grep -v '^#' <<<"$paragraph" | sed -E "s/^Suites:.*/Suites: $2/; s/^Components:.*/Components: main/"
      echo
    done < <(awk 'BEGIN { RS = "" } { printf "%s%c", $0, 0 }' "$file") >>"$folder/sources/next.sources"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -r "$file" ] || continue
    sed -nE "s/^(deb +(\[[^]]*\] +)?[^ ]+ +)$1 .*/\1$2 main/p" "$file" >>"$folder/sources/next.list"
  done
  [ -s "$folder/sources/next.sources" ] || [ -s "$folder/sources/next.list" ]
}

apt_next() {
  apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$folder/sources" \
    -o Dir::State::lists="$folder/lists" -o APT::Sandbox::User=root "$@"
}

fetch() { (cd "$folder/packages" && apt_next download docker-compose); }

install() {
  local suite next
  command -v apt-get >/dev/null || fail "Docker Compose v2 is missing; install its plugin (docker-compose-plugin)"
  [ "$(id -u)" -eq 0 ] || fail "Docker Compose v2 is missing; install its plugin, or run this as root"
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  next=$(next_suite "$suite") || {
    debian_install docker-compose
    return
  }
  copy_entries "$suite" "$next" || fail "apt has no entry for $suite to copy; install Docker Compose v2 yourself"
  step "$log" "Reading the package lists of $next" apt_next update
  step "$log" "Fetching Docker Compose" fetch
  export DEBIAN_FRONTEND=noninteractive
  step "$log" "Installing Docker Compose" \
    apt-get install --yes --no-install-recommends --no-upgrade "$folder"/packages/docker-compose_*.deb
}

answers || install
answers || fail "docker compose does not answer, or is not version 2; see $log"

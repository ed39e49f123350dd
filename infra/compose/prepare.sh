#!/usr/bin/env bash
# What compose.yaml needs on this host, made where it is missing: prepare.sh [NAME=VALUE…]
#
#   infra/compose/secrets/   passwords and the addresses that contain them; never overwritten
#   .env                     the group of the Engine's socket, and each NAME=VALUE; other lines are kept
#
# ASSAY_SECRETS names another folder for the secrets, ASSAY_ENV_FILE another file than .env, ASSAY_DOCKER_SOCKET another
# socket.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

secrets=${ASSAY_SECRETS:-infra/compose/secrets}
socket=${ASSAY_DOCKER_SOCKET:-/var/run/docker.sock}

# The folder is for its owner alone. The files are for everybody, since in a container that gets one of them a
# user without a name on the host reads it.
umask 022
mkdir -p "$secrets"
chmod 700 "$secrets"

secret() { # NAME VALUE
  [ -e "$secrets/$1" ] || printf '%s\n' "$2" >"$secrets/$1"
}
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

secret postgres_password "$(random)"
secret redis_password "$(random)"
secret database_url "postgresql://assay:$(cat "$secrets/postgres_password")@postgres/assay"
secret redis_url "redis://:$(cat "$secrets/redis_password")@redis:6379/0"

environment=${ASSAY_ENV_FILE:-.env}
remember() { # NAME=VALUE
  touch "$environment"
  sed -i "/^${1%%=*}=/d" "$environment"
  printf '%s\n' "$1" >>"$environment"
}

remember "ASSAY_DOCKER_GID=$(stat -L -c %g "$socket")"
for setting in "$@"; do
  remember "$setting"
done

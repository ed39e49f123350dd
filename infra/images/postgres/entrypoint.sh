#!/bin/sh
# Makes the cluster at the first start, then becomes the server.
set -eu

make_cluster() {
  fresh=$PGDATA.fresh # renamed when it is whole, so that a start that was cut short begins anew
  rm -rf "$fresh"
  mkdir -p "$(dirname "$PGDATA")"
  initdb --pgdata="$fresh" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --data-checksums
  echo "CREATE DATABASE \"$POSTGRES_DB\";" | postgres --single -D "$fresh" postgres >/dev/null
  echo "host all all all scram-sha-256" >>"$fresh/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$fresh/postgresql.conf"
  mv "$fresh" "$PGDATA"
}

if [ "${1:-}" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  make_cluster
fi
exec "$@"

#!/usr/bin/env bash
# Replaces index, blobs and the first key of the stack of docker-compose.yml by a backup's.
# Usage: deploy/restore.sh FOLDER      COMPOSE names another command than `docker compose`
# podman-compose stops and starts the first replica only: run it with no other.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?usage: deploy/restore.sh FOLDER, as deploy/backup.sh made it}
read -ra compose <<< "${COMPOSE:-docker compose}"
for name in data.tar index.rdb data-since.tar; do
    if [ ! -s "$folder/$name" ]; then
        echo "error: there is no $folder/$name; nothing has been changed" >&2
        exit 1
    fi
done
if [ "$(head -c 5 "$folder/index.rdb")" != REDIS ]; then
    echo "error: $folder/index.rdb is no snapshot of Redis; nothing has been changed" >&2
    exit 1
fi

"${compose[@]}" stop service redis
in_service() { "${compose[@]}" run --rm --no-deps -T --entrypoint sh service -c "$1"; }
in_service 'rm -rf /var/lib/protuning/store /var/lib/protuning/admin-key
    exec tar --directory /var/lib/protuning --extract --file -' < "$folder/data.tar"
in_service 'exec tar --directory /var/lib/protuning --extract --file -' < "$folder/data-since.tar"
# A snapshot is what an append-only file begins with.
"${compose[@]}" run --rm --no-deps -T --entrypoint sh redis -c '
    rm -rf /data/*
    mkdir /data/appendonlydir
    cat > /data/appendonlydir/appendonly.aof.1.base.rdb
    echo "file appendonly.aof.1.base.rdb seq 1 type b" > /data/appendonlydir/appendonly.aof.manifest
    ' < "$folder/index.rdb"
"${compose[@]}" start redis
"${compose[@]}" start service
echo "restored from $folder"

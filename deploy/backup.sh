#!/usr/bin/env bash
# Saves index, blobs and the first key of the stack of docker-compose.yml while it serves.
# Usage: deploy/backup.sh FOLDER       COMPOSE names another command than `docker compose`
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -ne 1 ] || [ -e "$1" ]; then
    echo "usage: deploy/backup.sh FOLDER, one that does not exist yet" >&2
    exit 2
fi
folder=$1
read -ra compose <<< "${COMPOSE:-docker compose}"

# In a container of its own: which replicas there are differs after an upgrade. Files that come or go
# meanwhile are no error: the index decides what counts.
save_data() {
    "${compose[@]}" run --rm --no-deps -T --entrypoint tar service --directory /var/lib/protuning \
        --create --file - --ignore-failed-read --warning=no-file-changed --warning=no-file-removed \
        "$@" store admin-key || [ $? -eq 1 ]
}

umask 077
mkdir -p "$folder"
began=$(date +%s)
# A blob is written before the index names it, and stays for an hour after nothing does. So these three,
# in this order, hold every blob of the snapshot.
save_data > "$folder/data.tar"
# Through a file, since redis-cli leaves a mark of the transfer's end in what it writes to a pipe.
"${compose[@]}" exec -T redis sh -c '
    set -e
    trap "rm -f /data/backup.rdb" EXIT
    redis-cli --rdb /data/backup.rdb >&2
    redis-check-rdb /data/backup.rdb >&2
    cat /data/backup.rdb' > "$folder/index.rdb"
save_data --newer-mtime="@$((began - 60))" > "$folder/data-since.tar"

if [ "$(head -c 5 "$folder/index.rdb")" != REDIS ]; then
    echo "error: what Redis gave is no snapshot. Look at: ${compose[*]} logs redis" >&2
    exit 1
fi
echo "saved to $folder: $(du -sh "$folder" | cut -f1)"

#!/usr/bin/env bash
# Replaces the replicas by ones of the present image and settings, one by one, while the others serve.
# Usage: deploy/upgrade.sh       COMPOSE and ENGINE name other commands than docker's, podman's say
# podman removes no container that another depends on: start the stack by podman-compose up --no-deps.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra compose <<< "${COMPOSE:-docker compose}"
engine=${ENGINE:-docker}
# As stop_grace_period: a stopped replica serves on until the proxy has noticed, then finishes what it has.
patience=150
# As long as the health check and the chart allow: engines that compile take minutes on a busy machine.
start_seconds=600

replicas() { "$engine" ps --quiet --no-trunc --filter "label=com.docker.compose.project=protuning" \
    --filter "label=com.docker.compose.service=service"; }

wait_until_healthy() {
    local deadline=$((SECONDS + start_seconds)) health
    until health=$("$engine" inspect --format '{{.State.Health.Status}}' "$1") && [ "$health" = healthy ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "error: $1 is $health after $start_seconds seconds; the old replicas go on serving." \
                "Look at its log: $engine logs $1" >&2
            exit 1
        fi
        sleep 1
    done
}

mapfile -t old < <(replicas)
if [ "${#old[@]}" -eq 0 ]; then
    echo "error: nothing runs. Start it: ${compose[*]} up --detach" >&2
    exit 1
fi
# Docker's containers have no such field.
mapfile -t all < <("$engine" ps --all --quiet --filter "label=com.docker.compose.project=protuning")
needed=$("$engine" inspect --format '{{.Dependencies}}' "${all[@]}" 2>/dev/null || true)
for replica in "${old[@]}"; do
    if [[ $needed == *"$replica"* ]]; then
        echo "error: a container depends on the replica ${replica:0:12}, so that $engine would not remove it;" \
            "nothing has been changed. Start the stack anew: ${compose[*]} up --detach --no-deps" >&2
        exit 1
    fi
done
for replica in "${old[@]}"; do
    before=$(replicas)
    "${compose[@]}" up --detach --no-deps --no-recreate --scale "service=$((${#old[@]} + 1))" service
    new=$(replicas | grep --invert-match --line-regexp --fixed-strings "$before")
    wait_until_healthy "$new"
    "$engine" stop --time "$patience" "$replica" >/dev/null
    "$engine" rm "$replica" >/dev/null
    echo "replaced ${replica:0:12} by ${new:0:12}"
done

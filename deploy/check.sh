#!/usr/bin/env bash
# Checks what is shipped for deployment, and with a running stack also that every panel has data.
# Usage: deploy/check.sh [PROMETHEUS_URL]        such as http://127.0.0.1:9090, some minutes after traffic has begun
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv/bin
if [ ! -x "$bin/check-jsonschema" ]; then
    echo "error: the environment is not installed. Run: make install" >&2
    exit 1
fi
deploy/get-prometheus.sh "$PWD/.venv/prometheus"
PATH=$PATH:$PWD/.venv/prometheus

echo "== compose files"
"$bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml deploy/gpu.yml
echo "== Dockerfile"
"$bin/hadolint" Dockerfile
echo "== Prometheus"
promtool check config deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/tests/*.yml
echo "== Helm chart, dashboard, guide"
"$bin/python" -m pytest -q tests/deploy

if [ $# -gt 0 ]; then
    echo "== the dashboard's queries, asked of $1"
    "$bin/python" deploy/ask_dashboard.py "$1"
fi

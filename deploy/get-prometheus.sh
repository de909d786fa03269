#!/usr/bin/env bash
# Puts prometheus and promtool into a folder, for the tests. Nothing is installed and no daemon started.
# Usage: deploy/get-prometheus.sh FOLDER
set -euo pipefail

folder=$1
if command -v promtool >/dev/null && command -v prometheus >/dev/null || [ -x "$folder/promtool" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "error: promtool is missing. Install Prometheus with your system's packages, or unpack a" \
        "release of it and put it into the PATH, then try again." >&2
    exit 1
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
if ! apt-get download -qq prometheus 2>/dev/null; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -qq
    apt-get download -qq prometheus
fi
dpkg-deb --extract prometheus_*.deb package
cd - >/dev/null
mkdir -p "$folder"
cp "$scratch/package/usr/bin/prometheus" "$scratch/package/usr/bin/promtool" "$folder/"

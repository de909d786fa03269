#!/bin/sh
# Makes an environment for each peer below .peers/ (about 6 GB with torch in each).
# Usage: benchmarks/peers/setup.sh [python3]
set -eu
cd "$(dirname "$0")/../.."
python="${1:-python3}"
make_environment() {
    name="$1"
    shift
    "$python" -m venv ".peers/$name"
    ".peers/$name/bin/pip" install --quiet --editable . "$@"
}
make_environment litserve "litserve>=0.2.19"
make_environment ray "ray[serve]>=2.50"
make_environment peft "peft>=0.18" transformers
make_environment adapterhub "adapters>=1.3"

#!/usr/bin/env bash
# Writes deploy/constraints.txt anew: the newest releases that pyproject.toml allows, torch's as given.
# Usage: deploy/pin-requirements.sh TORCH TORCHVISION      such as 2.13.0 0.28.0, a pair that belongs together
# Run it with the Python of the image, 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."

torch=$1
torchvision=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --upgrade pip
python3 deploy/runtime-requirements.py pyproject.toml > "$scratch/requirements.txt"
printf 'torch==%s\ntorchvision==%s\n' "$torch" "$torchvision" > "$scratch/torch.txt"
"$scratch/venv/bin/pip" install --quiet --dry-run --report "$scratch/report.json" \
    --constraint "$scratch/torch.txt" --requirement "$scratch/requirements.txt"
python3 - "$scratch/report.json" > "$scratch/constraints.txt" <<'PYTHON'
"""Prints the report's packages as pins; those of CUDA are left out, since torch pins them itself."""

import json
import re
import sys
from pathlib import Path

print("# What the image installs, made by deploy/pin-requirements.sh. CUDA's parts are pinned by torch.")
found = (item["metadata"] for item in json.loads(Path(sys.argv[1]).read_text())["install"])
pins = {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"].split("+")[0] for item in found}
for name, version in sorted(pins.items()):
    if not name.startswith(("nvidia-", "cuda-")) and name != "triton":
        print(f"{name}=={version}")
PYTHON
mv "$scratch/constraints.txt" deploy/constraints.txt

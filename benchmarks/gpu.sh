#!/usr/bin/env bash
# All that needs a GPU: whether the answers are right, how fast engines are, how fast training is.
#
#     benchmarks/gpu.sh OUT [correctness] [engine] [tiers] [training]
#
# Without parts it does all of them; each one alone takes less than nine minutes. Results go to the
# folder OUT as JSON and text. It runs in the Python environment that is active, or in one of its
# own on top of it, made from the wheels in ./wheels where that folder is (machines without a
# registry). PROTUNING_DATA names the images that training is measured on.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
parts=${*:-correctness engine tiers training}

command -v nvidia-smi > /dev/null || { echo "This machine has no NVIDIA GPU (no nvidia-smi)."; exit 1; }

if [ -d wheels ]; then
    python3 -m venv --system-site-packages .gpu-venv
    # shellcheck disable=SC1091
    . .gpu-venv/bin/activate
    pip install --quiet --no-index --find-links wheels --no-deps wheels/*.whl
    pip install --quiet --no-index --no-deps --no-build-isolation --editable .
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/machine.txt"
python -c 'import torch, timm; print(torch.__version__, torch.version.cuda, timm.__version__)' \
    >> "$out/machine.txt"

correctness() {
    # cuBLAS answers the same twice only with a workspace of its own.
    PROTUNING_TEST_DEVICE=cuda CUBLAS_WORKSPACE_CONFIG=:4096:8 python -m pytest --full \
        -k "torch or both_ways or shared_image or during_a_batch" \
        tests/contracts/test_engine.py tests/service/test_engine_mixed.py \
        > "$out/correctness.txt" 2>&1
}

engine() {
    local backbone kind dtype
    for backbone in resnet50 deit_small_patch16_224 vit_tiny_patch16_224; do
        for kind in torch compiled; do
            for dtype in float32 bfloat16; do
                python -m protuning bench engine --device cuda --backbone "$backbone" \
                    --engine "$kind" --dtype "$dtype" --tasks 16 --batch 32 --rounds 9 --json \
                    > "$out/engine-$backbone-$kind-$dtype.json" 2> "$out/engine-$backbone-$kind-$dtype.log"
            done
        done
    done
}

tiers() {
    python -m protuning bench tiers --device cuda --backbone deit_small_patch16_224 \
        --tasks 1,256,1024 --engine auto --dtype auto --json > "$out/tiers.json" 2> "$out/tiers.log"
}

training() {
    local backbone
    for backbone in deit_small_patch16_224 resnet50 mobilenetv2_100; do
        python -m benchmarks.training "${PROTUNING_DATA:?names a folder or archive of labelled images}" --backbone "$backbone" \
            --out "$out/training-$backbone.json" > "$out/training-$backbone.log" 2>&1
    done
}

failed=0
for part in $parts; do
    echo "== $part"
    "$part" || { echo "$part failed: see $out"; failed=1; }
done
exit "$failed"

#!/usr/bin/env bash
# On the GPU machine, after unpack.sh: kernels, PyTorch's reference, the engine, and their comparison. usage: check.sh OUT
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$1
export LD_LIBRARY_PATH=/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
run=.gpu/run inputs=.gpu/inputs
"$run/kernel-test" > "$out/kernel-test.log" 2>&1
grep -v "^linear" "$out/kernel-test.log"
mkdir -p /tmp/pytorch /tmp/engine
(cd export && timeout 200 python3 gpu_baseline.py /tmp/pytorch --parts reference --score-texts "../$inputs/windows.json" --translate-texts "../$inputs/sources.json" 2>&1 | tail -5)
(cd "$run" && timeout 120 ./node dist/loadtest/gpu/measure.js ../inputs/windows.json /tmp/engine --models models --device cuda:0)
(cd export && for kind in batch alone; do python3 gpu_parity.py /tmp/pytorch/reference "/tmp/engine/$kind" "/tmp/parity-$kind.json" 2>&1 | tail -12; done)
cp /tmp/engine/measure.json "$out/"

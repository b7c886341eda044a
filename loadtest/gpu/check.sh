#!/usr/bin/env bash
# On the GPU machine, after unpack.sh: kernels, PyTorch's reference, the engine, and their comparison. usage: check.sh OUT
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$1
export LD_LIBRARY_PATH=/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
run=.gpu/run inputs=.gpu/inputs
.gpu/lib/kernel-test > "$out/kernel-test.log" 2>&1
grep -v "^linear" "$out/kernel-test.log"
mkdir -p /tmp/pytorch /tmp/engine
(cd export && timeout 200 python3 gpu_baseline.py /tmp/pytorch --parts reference --score-texts "../$inputs/windows.json" --translate-texts "../$inputs/sources.json" 2>&1 | tail -5)
(cd "$run" && timeout 120 ./node dist/loadtest/gpu/measure.js ../inputs/windows.json /tmp/engine --models models --device cuda:0)
(cd export && for kind in batch alone; do python3 gpu_parity.py /tmp/pytorch/reference "/tmp/engine/$kind" "/tmp/parity-$kind.json" 2>&1 | tail -12; done)
cp /tmp/engine/measure.json /tmp/parity-batch.json "$out/"
# Translation, attention spans and HTTP.
(cd "$run" && timeout 120 ./node dist/loadtest/gpu/measure-translation.js ../inputs/sources.json /tmp/translated --models models --device cuda:0 2>&1 | tail -20)
cp /tmp/translated/*.json "$out/" 2> /dev/null
(cd "$run" && timeout 60 ./node dist/loadtest/gpu/measure-span.js ../inputs/wikipedia.txt "$out" --texts 32 --bytes 32768 -- --queue-lanes-max 100000 --models models --device cuda:0 --precision float32 2>&1 | tail -4)
(cd "$run" && timeout 90 ./node dist/loadtest/gpu/span-attention.js ../inputs/span-attention "$out/span-attention.json" 2>&1 | tail -4)
(cd "$run" && timeout 60 ./node dist/loadtest/gpu/http.js ../inputs/windows.json "$out/http.json" --models models --device cuda:0 2>&1 | tail -6)
(cd "$run" && timeout 60 ./node dist/loadtest/gpu/node-loop.js models/ut-lm-en ../inputs/windows.json "$out/node-score.json" --provider cuda --batch 128 --seconds-max 15 2>&1 | tail -1)
(cd export && timeout 150 python3 gpu_baseline.py "$out" --parts speed --variants compiled --seconds-max 110 --score-texts "../$inputs/windows.json" --translate-texts "../$inputs/sources.json" 2>&1 | grep best)

#!/usr/bin/env bash
# Puts together what pack.sh made, on the machine with the GPU: call it after each part has arrived; with all three there it leaves .gpu/run ready.
set -euo pipefail
cd "$(dirname "$0")/../../.gpu"
mkdir -p have run
cp -r parts/*/* have/
for need in app.tar.xz node.xz libonnxruntime.so.1.xz provider.00 provider.05 provider.09; do
  [ -f "have/$need" ] || { echo "waiting for $need"; exit 0; }
done
tar -C run -xJf have/app.tar.xz --strip-components=1
lib=run/node_modules/onnxruntime-node/bin/napi-v6/linux/x64
[ -f run/node ] || { xz -dc have/node.xz > run/node && chmod +x run/node; }
xz -dc have/libonnxruntime.so.1.xz > "$lib/libonnxruntime.so.1"
cat have/provider.?? | xz -T0 -dc > "$lib/libonnxruntime_providers_cuda.so"
for model in run/models/*; do cp "../models/$(basename "$model")/"{weights.bin,tokenizer.json} "$model/"; done
echo 'ready: .gpu/run'

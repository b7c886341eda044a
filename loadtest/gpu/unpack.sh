#!/usr/bin/env bash
# Puts together what pack.sh made, on the machine with the GPU: call it after each part has arrived; with all of them there it leaves .gpu/run ready.
set -euo pipefail
cd "$(dirname "$0")/../../.gpu"
mkdir -p have run
cp parts/*/* have/
[ -f have/count ] && [ "$(ls have/part.? | wc -l)" -eq "$(cat have/count)" ] || { echo "parts so far: $(ls have/part.? | wc -l)"; exit 0; }
cat have/part.? | tar -C have -x
tar -C run -xJf have/app.tar.xz --strip-components=1
lib=run/node_modules/onnxruntime-node/bin/napi-v6/linux/x64
xz -dc have/node.xz > run/node && chmod +x run/node
xz -dc have/libonnxruntime.so.1.xz > "$lib/libonnxruntime.so.1"
xz -T0 -dc have/provider.xz > "$lib/libonnxruntime_providers_cuda.so"
for model in ../models/*; do
  mkdir -p "run/models/$(basename "$model")" && cp -n "$model"/* "run/models/$(basename "$model")/"
done
# What gpu:bench looks for beside the server: the Python of the comparison, the texts, the kernels' test.
rm -rf run/export && cp -r ../export run/export
mkdir -p run/.gpu && ln -sfn ../../inputs run/.gpu/inputs && ln -sfn ../../lib run/.gpu/lib
echo 'ready: .gpu/run'

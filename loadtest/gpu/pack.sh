#!/usr/bin/env bash
# Packs what a bare GPU machine needs (Node, ONNX Runtime with its CUDA provider, the native operators, the server) into parts of 18 MB
# under .gpu/parts, for machines that take only so much at a time. `unpack.sh` puts them together there.
#
# usage: loadtest/gpu/pack.sh, after npm ci && npm run build && npm run gpu:install && export/cuda/build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
gpu=$PWD/.gpu
# Where gpu:install puts the provider, or one that was brought by hand.
provider=$PWD/node_modules/onnxruntime-node/bin/napi-v6/linux/x64
[ -f "$provider/libonnxruntime_providers_cuda.so" ] || provider=$gpu/provider
[ -f "$provider/libonnxruntime_providers_cuda.so" ] || { echo 'no CUDA provider: run npm run gpu:install' >&2; exit 1; }
app=$gpu/app
rm -rf "$app" "$gpu/parts" && mkdir -p "$app" "$gpu/parts"

git rev-parse HEAD > "$app/COMMIT"
cp -r package.json package-lock.json .npmrc "$app/"
(cd "$app" && npm ci --omit=dev --ignore-scripts --silent)
# The load generator is a development dependency: it comes along with what it needs.
npm install --prefix "$gpu/autocannon" --ignore-scripts --silent --no-save autocannon@9.0.0
cp -rn "$gpu/autocannon/node_modules/." "$app/node_modules/"
find "$app/node_modules/onnxruntime-node/bin/napi-v6" -mindepth 1 -maxdepth 1 ! -name linux -exec rm -rf {} +
rm -rf "$app/node_modules/onnxruntime-node/bin/napi-v6/linux/arm64" "$app/node_modules/onnxruntime-web" "$app"/node_modules/@koromix/koffi-{darwin,win32,freebsd,openbsd,android}*
mkdir -p "$app/dist" && cp -r dist/src dist/loadtest "$app/dist/"
mkdir -p "$app/export/node" && cp export/node/translate-loop.mjs "$app/export/node/"
lib=$app/node_modules/onnxruntime-node/bin/napi-v6/linux/x64
mv "$lib/libonnxruntime.so.1" "$gpu/"
cp "$gpu/lib/libponder_adaptive.so" "$lib/"
cp "$provider/libonnxruntime_providers_shared.so" "$lib/"

[ -f "$gpu/libonnxruntime.so.1.xz" ] || xz -T0 -6 -k "$gpu/libonnxruntime.so.1"
[ -f "$gpu/node.xz" ] || { cp "$(readlink -f "$(command -v node)")" "$gpu/node" && strip "$gpu/node" && xz -T0 -6 "$gpu/node"; }
[ -f "$gpu/provider.xz" ] || xz -T0 -6 -c "$provider/libonnxruntime_providers_cuda.so" > "$gpu/provider.xz"
tar -C "$gpu" -c app | xz -T0 -3 > "$gpu/app.tar.xz"
# One after another, then cut: a part a call.
tar -C "$gpu" -c app.tar.xz node.xz libonnxruntime.so.1.xz provider.xz | split -b 18000000 -d -a 1 - "$gpu/parts/part."
for part in "$gpu"/parts/part.?; do mkdir -p "$gpu/parts/${part##*.}" && mv "$part" "$gpu/parts/${part##*.}/"; done
ls "$gpu/parts" | wc -l > "$gpu/parts/0/count"
du -sh "$gpu"/parts/*

#!/bin/sh
# Builds .gpu/lib/libponder_adaptive.so and .gpu/lib/kernel-test from a clean clone: needs nvcc (CUDA 13), npm, python3 with pip, gcc.
# The headers come from the registries and stay in .gpu/; what is there already is not fetched again.
#   sh export/cuda/build.sh [lib|kernel-test|all]
set -eu
cd "$(dirname "$0")"
ROOT=$(cd ../.. && pwd)
GPU=${PONDER_GPU_DIR:-$ROOT/.gpu}
PYTHON=${PYTHON:-python3}

ONNXRUNTIME=com.github.asus4.onnxruntime@0.4.9
CUBLAS=nvidia-cublas==13.0.2.14
# A100 and H100, H200.
ARCHITECTURES="-gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=sm_90"

mkdir -p "$GPU/include" "$GPU/lib" "$GPU/obj" "$GPU/stub" "$GPU/fetched"

if [ ! -f "$GPU/include/onnxruntime_c_api.h" ]; then
  # The C API's headers; the package for Linux holds only libraries, the one for all platforms holds them beside its iOS framework.
  (cd "$GPU/fetched" && npm pack --silent "$ONNXRUNTIME" && tar xzf com.github.asus4.onnxruntime-*.tgz)
  headers=$(dirname "$(find "$GPU/fetched/package" -name onnxruntime_c_api.h | head -1)")
  cp "$headers"/*.h "$GPU/include/"
fi
if [ ! -f "$GPU/include/cublasLt.h" ]; then
  "$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --platform manylinux_2_27_x86_64 --dest "$GPU/fetched" "$CUBLAS"
  (cd "$GPU/fetched" && unzip -q -o -j nvidia_cublas-*.whl 'nvidia/cu13/include/*' -d "$GPU/include")
fi
# cuBLASLt itself is there at run time only, beside the CUDA provider: the linker gets a library of that name and version whose functions are empty.
grep -ohE 'cublasLt[A-Z][A-Za-z]+\(' linear.cu | sort -u | sed 's/($/(void) {}/; s/^/void /' > "$GPU/stub/stub.c"
echo 'libcublasLt.so.13 { global: cublasLt*; };' > "$GPU/stub/stub.map"
gcc -shared -fPIC "$GPU/stub/stub.c" -Wl,-soname,libcublasLt.so.13 -Wl,--version-script="$GPU/stub/stub.map" -o "$GPU/stub/libcublasLt.so"
exec make --no-print-directory -j "$(nproc)" GPU="$GPU" ARCHITECTURES="$ARCHITECTURES" "${1:-all}"

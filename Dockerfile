# ponder-serve on the CPU, and on NVIDIA GPUs. Stages, so that the image holds neither compilers nor npm's cache: `build` compiles,
# `modules` installs what runs, `cpu` copies the results; `operators` and `provider` make what `cuda` adds to it. Every RUN is plain
# shell and works in any clean directory.
#
#   docker build -t ponder-serve .
#   docker run --rm --read-only -p 8080:8080 ponder-serve                 (every option is a variable: -e PONDER_THREADS=2)
#   docker run --rm -i ponder-serve score - --heatmap < text.txt
#
#   docker build --target cuda -t ponder-serve:cuda .                     (docs/gpu.md)
#   docker run --rm --gpus all -p 8080:8080 ponder-serve:cuda

ARG CUDA=13.0.2

FROM node:20-bookworm-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json ./
COPY src ./src
RUN npm run build

FROM node:20-bookworm-slim AS modules
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev
# onnxruntime-node ships its library for five platforms, 290 MB; this one needs one of them.
RUN cd node_modules/onnxruntime-node/bin/napi-v6 \
 && find . -mindepth 2 -maxdepth 2 -type d ! -path "./linux/$(node -p process.arch)" -exec rm -rf {} + \
 && find . -type d -empty -delete \
 && test -e "linux/$(node -p process.arch)"

FROM node:20-bookworm-slim AS cpu
ENV NODE_ENV=production \
    PONDER_HOST=0.0.0.0
WORKDIR /app
COPY package.json LICENSE ./
COPY --from=modules /app/node_modules ./node_modules
COPY --from=build /build/dist/src ./dist/src
COPY models ./models
# By number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 1000:1000
EXPOSE 8080
# Node itself asks: the slim image has no curl. A Kubernetes Service named `ponder` sets PONDER_PORT=tcp://…, which is no port.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["node", "-e", "const { PONDER_PORT: p } = process.env; fetch(`http://127.0.0.1:${/^[0-9]+$/.test(p) ? p : 8080}/health/ready`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "dist/src/main.js"]
CMD ["serve"]

# The native operators of export/cuda. nvcc comes with the image; npm and pip fetch headers of fixed versions. Ubuntu 22.04, because what is
# linked there needs no newer C library than bookworm's.
FROM nvidia/cuda:${CUDA}-devel-ubuntu22.04 AS operators
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make npm python3-pip unzip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY export/cuda ./export/cuda
RUN sh export/cuda/build.sh lib \
 && strip --strip-unneeded .gpu/lib/libponder_adaptive.so

# ONNX Runtime's CUDA provider, verified, beside its library.
FROM modules AS provider
COPY --from=build /build/dist/src ./dist/src
COPY --from=operators /build/.gpu/lib/libponder_adaptive.so ./.gpu/lib/
RUN node dist/src/main.js gpu-install

FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu22.04 AS libraries
# Of CUDA's libraries those that the provider is linked to, and cuDNN: not the solvers, codecs and tools beside them.
RUN mkdir /libraries \
 && cp -P /usr/local/cuda/lib64/libcudart.so.13* /usr/local/cuda/lib64/libcublas.so.13* /usr/local/cuda/lib64/libcublasLt.so.13* \
      /usr/local/cuda/lib64/libcurand.so.10* /usr/lib/x86_64-linux-gnu/libcudnn*.so.9* /libraries/

# The CPU's image with what a GPU needs, so that ports, user and health check are the same. The driver comes from the host.
FROM cpu AS cuda
ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=libraries /libraries /usr/local/cuda/lib64
COPY --from=provider /app/node_modules/onnxruntime-node/bin/napi-v6/linux/x64 ./node_modules/onnxruntime-node/bin/napi-v6/linux/x64

# What is built when no target is named.
FROM cpu

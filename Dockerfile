# ponder-serve on the CPU. Three stages, so that the image holds neither compilers nor npm's cache: `build` compiles,
# `modules` installs what runs, the last one copies the results. Every RUN is plain shell and works in any clean directory.
#
#   docker build -t ponder-serve .
#   docker run --rm --read-only -p 8080:8080 ponder-serve                 (every option is a variable: -e PONDER_THREADS=2)
#   docker run --rm -i ponder-serve score - --heatmap < text.txt

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

FROM node:20-bookworm-slim
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

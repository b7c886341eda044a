// Kernels over rows: a warp a row, a row in registers, every access 16 bytes a thread.
#include "kernels.h"

namespace ponder {
namespace {

constexpr int WARP = 32;
constexpr int ROWS_PER_BLOCK = 8;

__device__ float sum_over_warp(float x) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

__device__ float sum(float4 v) { return (v.x + v.y) + (v.z + v.w); }
__device__ float dot(float4 a, float4 b) { return (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w); }
__device__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ float4 operator-(float4 a, float b) { return make_float4(a.x - b, a.y - b, a.z - b, a.w - b); }
__device__ float4 operator*(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }
__device__ float4 operator*(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }

__device__ void store_half4(__half* to, float4 v) {
  const __half2 low = __floats2half2_rn(v.x, v.y), high = __floats2half2_rn(v.z, v.w);
  uint2 packed;
  packed.x = *reinterpret_cast<const unsigned*>(&low);
  packed.y = *reinterpret_cast<const unsigned*>(&high);
  *reinterpret_cast<uint2*>(to) = packed;
}

/// V float4 a thread: a row of 128 V numbers. Centres the row and returns 1 / sqrt(variance + epsilon).
template <int V>
__device__ float centre(float4 (&v)[V], float epsilon) {
  float total = 0;
#pragma unroll
  for (int i = 0; i < V; i++) total += sum(v[i]);
  const float mean = sum_over_warp(total) / (128 * V);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < V; i++) {
    v[i] = v[i] - mean;
    squares += dot(v[i], v[i]);
  }
  return 1.0f / sqrtf(sum_over_warp(squares) / (128 * V) + epsilon);
}

__device__ int row_of_block() { return blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP; }
int blocks(int rows) { return (rows + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK; }

template <int V>
__global__ void start_rows_kernel(const Row* rows, const int32_t* ids, int count, const int8_t* embedding, const float* scale, float factor,
                                  int slots, float4* state, float4* accumulator, float* halting) {
  // The table may lie in the host's memory: a block fetches its part in one go instead of a warp at a time.
  __shared__ int slots_of_block[ROWS_PER_BLOCK], ids_of_block[ROWS_PER_BLOCK];
  const int row = row_of_block(), thread = threadIdx.x % WARP;
  if (threadIdx.x < ROWS_PER_BLOCK * 8) {
    const int first = blockIdx.x * ROWS_PER_BLOCK;
    const int at = first * 8 + threadIdx.x;
    const int word = at < count * 8 ? reinterpret_cast<const int*>(rows)[at] : -1;
    if (threadIdx.x % 8 == 0) slots_of_block[threadIdx.x / 8] = word;
    if (threadIdx.x < ROWS_PER_BLOCK) ids_of_block[threadIdx.x] = first + threadIdx.x < count ? ids[first + threadIdx.x] : 0;
  }
  __syncthreads();
  const int slot = slots_of_block[threadIdx.x / WARP];
  if (row >= count || slot < 0) return;
  const int id = ids_of_block[threadIdx.x / WARP];
  const float f = scale[id];
#pragma unroll
  for (int i = 0; i < V; i++) {
    const int at = i * WARP + thread;
    const char4 e = reinterpret_cast<const char4*>(embedding)[static_cast<size_t>(id) * (32 * V) + at];
    state[static_cast<size_t>(slot) * (32 * V) + at] = make_float4(e.x * f * factor, e.y * f * factor, e.z * f * factor, e.w * f * factor);
    accumulator[static_cast<size_t>(slot) * (32 * V) + at] = make_float4(0, 0, 0, 0);
  }
  if (thread == 0) halting[slot] = 0;
}

template <int V>
__global__ void start_lanes_kernel(StartLanes io) {
  // Table and ids may lie in the host's memory: a block fetches its piece once.
  __shared__ LanePiece piece;
  __shared__ float threshold;
  __shared__ int ids[LANE_PIECE];
  if (threadIdx.x < 8) reinterpret_cast<int*>(&piece)[threadIdx.x] = reinterpret_cast<const int*>(io.pieces + blockIdx.x)[threadIdx.x];
  if (threadIdx.x == WARP) threshold = io.thresholds[blockIdx.x];
  __syncthreads();
  const int count = min(piece.count, LANE_PIECE);
  if (count <= 0) return;
  if (threadIdx.x < count) ids[threadIdx.x] = io.ids[piece.start + threadIdx.x];
  __syncthreads();
  const int thread = threadIdx.x % WARP;
  for (int i = threadIdx.x / WARP; i < count; i += ROWS_PER_BLOCK) {
    const int id = ids[i], position = piece.position + i, slot = piece.base + position, row = piece.row + i;
    const float f = io.scale[id];
#pragma unroll
    for (int j = 0; j < V; j++) {
      const int at = j * WARP + thread;
      const size_t to = static_cast<size_t>(slot) * (32 * V) + at;
      const char4 e = reinterpret_cast<const char4*>(io.embedding)[static_cast<size_t>(id) * (32 * V) + at];
      reinterpret_cast<float4*>(io.state)[to] = make_float4(e.x * f * io.factor, e.y * f * io.factor, e.z * f * io.factor, e.w * f * io.factor);
      reinterpret_cast<float4*>(io.accumulator)[to] = make_float4(0, 0, 0, 0);
    }
    if (thread != 0) continue;
    io.halting[slot] = 0;
    io.threshold[row] = threshold;
    io.active[row] = {slot, slot, position, 1, piece.base, piece.visible == 0 ? position + 1 : piece.visible, piece.lane, piece.limits};
  }
}

template <int V>
__global__ void __launch_bounds__(WARP* ROWS_PER_BLOCK) adaptive_input_kernel(Rows rows, AdaptiveInput io) {
  const int row = row_of_block(), thread = threadIdx.x % WARP;
  if (row >= rows.active_count + rows.renewed_count) return;
  const bool active = row < rows.active_count;
  const Row r = active ? rows.active[row] : rows.renewed[row - rows.active_count];
  const int slot = r.slot < 0 ? io.slots - 1 : r.slot;
  float4 v[V];
#pragma unroll
  for (int i = 0; i < V; i++) {
    const int at = i * WARP + thread;
    const float4 s = reinterpret_cast<const float4*>(io.state)[static_cast<size_t>(slot) * (32 * V) + at];
    const float4 p = reinterpret_cast<const float4*>(io.positions)[static_cast<size_t>(max(r.position, 0)) * (32 * V) + at];
    const float4 t = reinterpret_cast<const float4*>(io.steps)[static_cast<size_t>(max(r.step, 0)) * (32 * V) + at];
    v[i] = s + (p + t);
    if (active) reinterpret_cast<float4*>(io.x)[static_cast<size_t>(row) * (32 * V) + at] = v[i];
  }
  const float inverse = centre<V>(v, io.epsilon);
  float logit = 0;
#pragma unroll
  for (int i = 0; i < V; i++) {
    const int at = i * WARP + thread;
    logit += dot(v[i], reinterpret_cast<const float4*>(io.halt)[at]);
    store_half4(io.normalised + static_cast<size_t>(row) * (128 * V) + at * 4, v[i] * inverse);
  }
  logit = sum_over_warp(logit) * inverse + io.halt_bias[0];
  if (thread != 0 || !active) return;
  const float p = 1.0f / (1.0f + expf(-logit));
  const float threshold = io.threshold[row], before = io.halting[slot];
  const bool last = r.step == r.limits / 256, held = r.step < r.limits % 256;
  const float step = held ? fminf(p, threshold - before) : p;
  const float next = before + step, missing = 1.0f - before;
  const bool halted = last || (!held && next > threshold);
  io.weight[row] = halted ? missing : step;
  io.remainder[row] = halted ? missing : 0.0f;
  io.halted[row] = halted;
  io.halting[slot] = halted ? 1.0f : next;
}

template <int V>
__global__ void normalise_rows_kernel(const float4* x, int rows, float epsilon, __half* out) {
  const int row = row_of_block(), thread = threadIdx.x % WARP;
  if (row >= rows) return;
  float4 v[V];
#pragma unroll
  for (int i = 0; i < V; i++) v[i] = x[static_cast<size_t>(row) * (32 * V) + i * WARP + thread];
  const float inverse = centre<V>(v, epsilon);
#pragma unroll
  for (int i = 0; i < V; i++) store_half4(out + static_cast<size_t>(row) * (128 * V) + (i * WARP + thread) * 4, v[i] * inverse);
}

template <int V>
__global__ void write_rows_kernel(const Row* rows, int count, const float4* z, const float* weight, float4* state, float4* accumulator) {
  const int row = row_of_block(), thread = threadIdx.x % WARP;
  if (row >= count) return;
  const int slot = rows[row].slot;
  if (slot < 0) return;
  const float w = weight[row];
#pragma unroll
  for (int i = 0; i < V; i++) {
    const size_t from = static_cast<size_t>(row) * (32 * V) + i * WARP + thread;
    const size_t to = static_cast<size_t>(slot) * (32 * V) + i * WARP + thread;
    const float4 value = z[from];
    state[to] = value;
    accumulator[to] = accumulator[to] + value * w;
  }
}

template <int V>
__global__ void read_sums_kernel(const float4* accumulator, const int32_t* slots, int rows, int pool, float epsilon, const float4* gain,
                                 const float4* shift, __half* out) {
  // Fetched by the block in one go: the list may lie in the host's memory.
  __shared__ int slots_of_block[ROWS_PER_BLOCK];
  const int row = row_of_block(), thread = threadIdx.x % WARP;
  if (threadIdx.x < ROWS_PER_BLOCK) {
    const int at = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x;
    const int slot = at < rows ? slots[at] : -1;
    slots_of_block[threadIdx.x] = slot < 0 ? pool - 1 : slot;
  }
  __syncthreads();
  if (row >= rows) return;
  const int slot = slots_of_block[threadIdx.x / WARP];
  float4 v[V];
#pragma unroll
  for (int i = 0; i < V; i++) v[i] = accumulator[static_cast<size_t>(slot) * (32 * V) + i * WARP + thread];
  const float inverse = centre<V>(v, epsilon);
#pragma unroll
  for (int i = 0; i < V; i++) {
    const int at = i * WARP + thread;
    const float4 unit = v[i] * inverse;
    const float4 value = gain == nullptr ? unit : unit * gain[at] + shift[at];
    store_half4(out + static_cast<size_t>(row) * (128 * V) + at * 4, value);
  }
}

/// A thread moves 16 bytes of a key or of a value, which end a row of `row_chunks` such pieces.
__global__ void write_cache_kernel(Rows rows, const uint4* from_rows, int row_chunks, int chunks, int cache_rows, uint4* keys, uint4* values) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows.active_count + rows.renewed_count) return;
  const Row& r = row < rows.active_count ? rows.active[row] : rows.renewed[row - rows.active_count];
  if (r.slot < 0 || r.cache_row < 0 || r.cache_row >= cache_rows) return;
  const uint4* from = from_rows + static_cast<size_t>(row + 1) * row_chunks - 2 * chunks;
  for (int i = threadIdx.x; i < 2 * chunks; i += blockDim.x) {
    uint4* to = i < chunks ? keys : values;
    to[static_cast<size_t>(r.cache_row) * chunks + i % chunks] = from[i];
  }
}

__global__ void read_halting_kernel(const int32_t* depths, const float* remainders, const int32_t* slots, int rows, int pool, int32_t* depth,
                                    float* remainder) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const int slot = slots[row] < 0 ? pool - 1 : slots[row];
  depth[row] = depths[slot];
  remainder[row] = remainders[slot];
}

/// Calls `f` with the row's width as a constant: std::integral_constant<int, d / 128>.
template <typename F>
void with_width(int d, F f) {
  switch (d / 128) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 6: return f(std::integral_constant<int, 6>{});
    case 8: return f(std::integral_constant<int, 8>{});
  }
}

void write_keys_and_values(const Rows& rows, const __half* from, int row_width, int d, int cache_rows, __half* keys, __half* values,
                           cudaStream_t stream) {
  const int count = rows.active_count + rows.renewed_count;
  if (count == 0) return;
  const dim3 threads(64, 4);
  write_cache_kernel<<<(count + 3) / 4, threads, 0, stream>>>(rows, reinterpret_cast<const uint4*>(from), row_width / 8, d / 8, cache_rows,
                                                              reinterpret_cast<uint4*>(keys), reinterpret_cast<uint4*>(values));
}

constexpr int BLOCK = WARP * ROWS_PER_BLOCK;
template <typename T>
T* as(const float* p) {
  return reinterpret_cast<T*>(const_cast<float*>(p));
}

}  // namespace

void start_rows(const Row* rows, const int32_t* ids, int count, const int8_t* embedding, const float* scale, float factor, int d, int slots,
                float* state, float* accumulator, float* halting, cudaStream_t stream) {
  if (count == 0) return;
  with_width(d, [&](auto v) {
    start_rows_kernel<v.value><<<blocks(count), BLOCK, 0, stream>>>(rows, ids, count, embedding, scale, factor, slots, as<float4>(state),
                                                                   as<float4>(accumulator), halting);
  });
}

void start_lanes(const StartLanes& io, cudaStream_t stream) {
  if (io.count == 0) return;
  with_width(io.d, [&](auto v) { start_lanes_kernel<v.value><<<io.count, BLOCK, 0, stream>>>(io); });
}

void adaptive_input(const Rows& rows, const AdaptiveInput& io, cudaStream_t stream) {
  const int count = rows.active_count + rows.renewed_count;
  if (count == 0) return;
  with_width(io.d, [&](auto v) { adaptive_input_kernel<v.value><<<blocks(count), BLOCK, 0, stream>>>(rows, io); });
}

void write_cache(const Rows& rows, const __half* qkv, int d, int cache_rows, __half* keys, __half* values, cudaStream_t stream) {
  write_keys_and_values(rows, qkv, 3 * d, d, cache_rows, keys, values, stream);
}

void write_memory(const Row* rows, int count, const __half* kv, int d, int memory_rows, __half* keys, __half* values, cudaStream_t stream) {
  write_keys_and_values({rows, count, nullptr, 0}, kv, 2 * d, d, memory_rows, keys, values, stream);
}

void normalise_rows(const float* x, int rows, int d, float epsilon, __half* out, cudaStream_t stream) {
  if (rows == 0) return;
  with_width(d, [&](auto v) { normalise_rows_kernel<v.value><<<blocks(rows), BLOCK, 0, stream>>>(as<const float4>(x), rows, epsilon, out); });
}

void write_rows(const Row* rows, int count, const float* z, const float* weight, int d, int slots, float* state, float* accumulator,
                cudaStream_t stream) {
  if (count == 0) return;
  with_width(d, [&](auto v) {
    write_rows_kernel<v.value>
        <<<blocks(count), BLOCK, 0, stream>>>(rows, count, as<const float4>(z), weight, as<float4>(state), as<float4>(accumulator));
  });
}

void read_sums(const float* accumulator, const int32_t* slots, int rows, int d, int pool, float epsilon, const float* gain, const float* shift,
               __half* out, cudaStream_t stream) {
  if (rows == 0) return;
  with_width(d, [&](auto v) {
    read_sums_kernel<v.value><<<blocks(rows), BLOCK, 0, stream>>>(as<const float4>(accumulator), slots, rows, pool, epsilon,
                                                                 as<const float4>(gain), as<const float4>(shift), out);
  });
}

void read_halting(const int32_t* depths, const float* remainders, const int32_t* slots, int rows, int pool, int32_t* depth, float* remainder,
                  cudaStream_t stream) {
  if (rows == 0) return;
  read_halting_kernel<<<(rows + 255) / 256, 256, 0, stream>>>(depths, remainders, slots, rows, pool, depth, remainder);
}

}  // namespace ponder

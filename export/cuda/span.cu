// Attention over learnt spans, after FlashAttention (Dao 2022, arXiv 2205.14135) in float32: a block takes a tile of queries of one unit and head,
// keys and values come through the window a chunk at a time, and the softmax is kept running.
//
// A score is q . (k[j] + p[j - i]) + bias. The second product has its own row of the position table for every diagonal: a thread that holds a
// grid of 4 queries (4 apart) by 4 keys (8 apart) meets 10 diagonals instead of 16. Rows of the table lie in a ring; each chunk renews a part of it.
//
// The keys of a long span are cut into segments, a block each, whose sums a second kernel adds up: otherwise the longest span of a few units would
// keep most of the device waiting.
//
// Chunks are counted from the tile's first key, and those that all its queries hide are left out; where segments begin is a matter of the window's
// length. So a query's sums are made in an order that depends on its unit alone.
#include <algorithm>
#include <cmath>

#include "span.h"

namespace ponder {
namespace {

constexpr int CHUNK = 32;
/// Queries of a warp; a lane has four of them, and four of the keys of a chunk.
constexpr int STRIP = 16;
/// Rows of the position table in shared memory: those of a tile and a chunk, and the next chunk's.
constexpr int RING = 128;
/// Of a row of weights in shared memory.
constexpr int WEIGHTS = CHUNK + 4;
/// A segment is at least so long, and there are at most so many, since each writes its sums.
constexpr int SEGMENT_CHUNKS = 16;
constexpr int SEGMENTS_MAX = 8;
constexpr unsigned ALL = 0xffffffffu;

/// A head's queries, keys, values and table of one unit, from the first query of a tile on.
struct Band {
  const float *q, *keys, *values, *pe, *bias, *z;
  const int32_t* window;
  /// Sums of this segment: [tile_rows, d_head], then the peaks and the totals of all rows.
  float *out, *partial;
  float cap;
  int rows, s, width, segment, segments, segment_chunks;
};

__device__ Band band_of(const SpanAttention& io, int block, int tile_rows) {
  const int tiles = (io.m + tile_rows - 1) / tile_rows;
  // The last groups are the widest, and begin first.
  int at = io.group_count - 1;
  auto blocks = [&] { return io.groups[at].heads * io.u * tiles * io.groups[at].segments; };
  while (block >= blocks()) block -= blocks(), at--;
  const SpanGroup& group = io.groups[at];
  Band band;
  band.partial = group.partial + static_cast<int64_t>(block) * tile_rows * (io.d_head + 2);
  band.segments = group.segments;
  band.segment_chunks = group.segment_chunks;
  band.segment = block % group.segments;
  block /= group.segments;
  const int first = block % tiles * tile_rows, unit = block / tiles % io.u, head = block / tiles / io.u;
  band.q = group.q + unit * io.q_unit + head * io.q_head + first * io.q_row;
  band.keys = group.keys + head * io.d_head;
  band.values = group.values + head * io.d_head;
  band.pe = group.pe;
  band.bias = group.bias == nullptr ? nullptr : group.bias + unit * io.bias_unit + head * io.bias_head + first * io.bias_row;
  band.z = group.bias != nullptr ? nullptr : group.z + head + (static_cast<int64_t>(unit) * io.m + first) * io.z_row;
  band.window = group.window + static_cast<int64_t>(unit) * (group.s + io.m) + first;
  band.out = group.out + (static_cast<int64_t>(unit) * io.m + first) * io.out_row + head * io.d_head;
  band.cap = band.z != nullptr ? io.cap[unit] : 0.0f;
  band.rows = min(tile_rows, io.m - first);
  band.s = group.s;
  band.width = group.heads * io.d_head;
  return band;
}

/// ln m_z(x) as SpanMask has it; -inf where the mask is 0. Key x of a band of s lies s - x before the query.
__device__ float mask_of(float reach, int x, int s, float ramp) {
  const float share = (reach - static_cast<float>(s - 1 - x)) / ramp;
  return share >= 1.0f ? 0.0f : share > 0.0f ? logf(share) : -INFINITY;
}

/// The first key of query `row` that it does not hide; s: all are hidden. Called by a whole warp.
__device__ int first_seen(const Band& band, const SpanAttention& io, int row) {
  if (band.bias == nullptr) {
    const float reach = fminf(band.z[row * io.z_row], band.cap) + io.ramp;
    return band.s - static_cast<int>(fminf(fmaxf(ceilf(reach), 0.0f), static_cast<float>(band.s)));
  }
  const float* bias = band.bias + row * io.bias_row;
  const int lane = threadIdx.x % 32;
  for (int start = 0; start < band.s; start += 32 * 8) {
    int found = band.s;
#pragma unroll
    for (int part = 7; part >= 0; part--) {
      const int x = start + part * 32 + lane;
      if (x < band.s && bias[x] > SPAN_HIDDEN) found = x;
    }
    found = __reduce_min_sync(ALL, found);
    if (found < band.s) return found;
  }
  return band.s;
}

/// Starts to copy into shared memory, or to clear.
__device__ void start_copy16(float* to, const float* from, bool real) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from), "r"(real ? 16 : 0) : "memory");
}
__device__ void start_copy4(float* to, const float* from, bool real) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(address), "l"(from), "r"(real ? 4 : 0) : "memory");
}
__device__ void await_copies() { asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;\n" ::: "memory"); }

__device__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ void add_product(float& to, const float4& a, const float4& b) {
  to = fmaf(a.x, b.x, to);
  to = fmaf(a.y, b.y, to);
  to = fmaf(a.z, b.z, to);
  to = fmaf(a.w, b.w, to);
}
__device__ void add_scaled(float (&to)[4], float weight, const float4& v) {
  to[0] = fmaf(weight, v.x, to[0]);
  to[1] = fmaf(weight, v.y, to[1]);
  to[2] = fmaf(weight, v.z, to[2]);
  to[3] = fmaf(weight, v.w, to[3]);
}

/// Four floats of padding a row put the rows that lanes read together into different banks.
template <int D>
constexpr int row_of() {
  return D + 4;
}
template <int D, int WARPS>
constexpr int shared_floats() {
  return (WARPS * STRIP + 4 * CHUNK + RING) * row_of<D>() + WARPS * STRIP * WEIGHTS;
}

/// Blocks of a multiprocessor at a time; shared memory sets the limit.
constexpr int blocks_at_once(int d_head) { return d_head > 64 ? 1 : 2; }

template <int D, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, blocks_at_once(D)) span_attention_kernel(const __grid_constant__ SpanAttention io) {
  constexpr int ROW = row_of<D>(), ROWS = WARPS * STRIP, THREADS = WARPS * 32;
  constexpr int PARTS = D / 4;  // of 16 bytes a key
  constexpr int COPIES = CHUNK * PARTS / THREADS;
  static_assert(RING >= ROWS + 2 * CHUNK && ROWS % CHUNK == 0 && CHUNK * PARTS % THREADS == 0 && D % 32 == 0);
  extern __shared__ __align__(16) float memory[];
  float* const queries = memory;
  float* const all_keys = queries + ROWS * ROW;
  float* const all_values = all_keys + 2 * CHUNK * ROW;
  float* const table = all_values + 2 * CHUNK * ROW;
  float* const weights = table + RING * ROW;
  __shared__ int first_key;

  const Band band = band_of(io, blockIdx.x, ROWS);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, at_row = lane / 8, at_key = lane % 8;
  const int rows = band.rows, s = band.s, count = rows + s - 1;  // keys that the tile sees
  const int strip = warp * STRIP;                               // the warp's first query
  const bool works = strip < rows;

  if (threadIdx.x == 0) first_key = count;
  for (int i = threadIdx.x; i < ROWS * PARTS; i += THREADS) {
    const int row = i / PARTS, part = i % PARTS;
    const float4 none = {0, 0, 0, 0};
    *reinterpret_cast<float4*>(queries + row * ROW + part * 4) = row < rows ? load4(band.q + row * io.q_row + part * 4) : none;
  }
  // Among the warp's queries, the first key in the band that one sees.
  int seen_from = s, earliest = count;
  if (works) {
    const bool alike = band.bias != nullptr ? io.bias_row == 0 : io.z_row == 0;
    for (int row = strip; row < min(strip + STRIP, rows); row++) {
      const int x = first_seen(band, io, row);
      seen_from = min(seen_from, x);
      earliest = min(earliest, row + x);
      if (alike) break;
    }
  }
  __syncthreads();
  if (works && lane == 0) atomicMin(&first_key, earliest);

  // A lane's queries are strip + at_row + 4 a, its keys at_key + 8 b.
  float reach[4];
#pragma unroll
  for (int a = 0; a < 4; a++) {
    const int row = min(strip + at_row + 4 * a, rows - 1);
    reach[a] = band.z != nullptr ? fminf(band.z[row * io.z_row], band.cap) + io.ramp : 0.0f;
  }
  __syncthreads();

  int slots[COPIES];
  auto find = [&](int chunk) {
#pragma unroll
    for (int n = 0; n < COPIES; n++) {
      const int key = chunk * CHUNK + (threadIdx.x + n * THREADS) / PARTS;
      slots[n] = key < count ? band.window[key] : -1;
    }
  };
  auto fetch_table = [&](int chunk) {
    for (int i = threadIdx.x; i < CHUNK * D; i += THREADS) {
      const int x = chunk * CHUNK + i % CHUNK, d = i / CHUNK;
      const bool real = x >= 0 && x < s;
      start_copy4(table + (x & (RING - 1)) * ROW + d, band.pe + d * io.pe_stride + (real ? x : 0), real);
    }
  };
  auto fetch = [&](int chunk) {
#pragma unroll
    for (int n = 0; n < COPIES; n++) {
      const int i = threadIdx.x + n * THREADS, key = i / PARTS, part = i % PARTS;
      const bool real = slots[n] >= 0;
      const int64_t from = real ? static_cast<int64_t>(slots[n]) * band.width + part * 4 : 0;
      const int to = (chunk % 2 * CHUNK + key) * ROW + part * 4;
      start_copy16(all_keys + to, band.keys + from, real);
      start_copy16(all_values + to, band.values + from, real);
    }
    fetch_table(chunk);
    find(chunk + 1);
  };

  float out[4][D / 32][4] = {};
  float peak[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, total[4] = {};
  const int begin = band.segment * band.segment_chunks;
  const int end = min((count + CHUNK - 1) / CHUNK, begin + band.segment_chunks), start = max(first_key / CHUNK, begin);
  if (start < end) {
    for (int before = start - ROWS / CHUNK; before < start; before++) fetch_table(before);
    find(start);
    fetch(start);
  }
  for (int chunk = start; chunk < end; chunk++) {
    await_copies();
    // Everyone's copies have arrived, and everyone is done with what is overwritten next.
    __syncthreads();
    if (chunk + 1 < end) fetch(chunk + 1);
    // From the strip's first query to the chunk's first key; the strip meets the diagonals from - 15 ... from + 31.
    const int from = chunk * CHUNK - strip;
    if (!works || from + CHUNK - 1 < seen_from || from - (STRIP - 1) >= s) continue;

    const float* keys = all_keys + (chunk % 2 * CHUNK + at_key) * ROW;
    const float* values = all_values + chunk % 2 * CHUNK * ROW + at_key * 4;
    const float* own = queries + (strip + at_row) * ROW;
    const int diagonal = from + at_key - at_row;  // of a = b = 0
    int positions[10];
#pragma unroll
    for (int g = 0; g < 10; g++) positions[g] = ((diagonal + 4 * (g - 3)) & (RING - 1)) * ROW;
    float score[4][4] = {};
#pragma unroll 2
    for (int d = 0; d < D; d += 4) {
      float4 q[4];
#pragma unroll
      for (int a = 0; a < 4; a++) q[a] = load4(own + 4 * a * ROW + d);
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const float4 k = load4(keys + 8 * b * ROW + d);
#pragma unroll
        for (int a = 0; a < 4; a++) add_product(score[a][b], q[a], k);
      }
      // Query a and key b lie on the diagonal 8 b - 4 a.
#pragma unroll
      for (int g = 0; g < 10; g++) {
        const float4 p = load4(table + positions[g] + d);
#pragma unroll
        for (int a = 0; a < 4; a++) {
#pragma unroll
          for (int b = 0; b < 4; b++) {
            if (2 * b - a + 3 == g) add_product(score[a][b], q[a], p);
          }
        }
      }
    }

#pragma unroll
    for (int a = 0; a < 4; a++) {
      const int row = strip + at_row + 4 * a;
      float best = -INFINITY;
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const int x = diagonal + 8 * b - 4 * a;
        float bias = -INFINITY;
        if (row < rows && x >= 0 && x < s) {
          bias = band.bias != nullptr ? band.bias[row * io.bias_row + x] : mask_of(reach[a], x, s, io.ramp);
        }
        score[a][b] = bias > SPAN_HIDDEN ? score[a][b] + bias : -INFINITY;
        best = fmaxf(best, score[a][b]);
      }
#pragma unroll
      for (int other = 1; other < 8; other *= 2) best = fmaxf(best, __shfl_xor_sync(ALL, best, other));
      const float next = fmaxf(peak[a], best), base = next == -INFINITY ? 0.0f : next;
      const float kept = expf(peak[a] - base);
      peak[a] = next;
      total[a] *= kept;
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const float weight = expf(score[a][b] - base);
        total[a] += weight;
        weights[row * WEIGHTS + at_key + 8 * b] = weight;
      }
#pragma unroll
      for (int e = 0; e < D / 32; e++) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[a][e][i] *= kept;
      }
    }
    // Weights of a strip are of one warp alone.
    __syncwarp();
    const float* own_weights = weights + (strip + at_row) * WEIGHTS;
#pragma unroll 2
    for (int j = 0; j < CHUNK; j += 4) {
      float4 weight[4];
#pragma unroll
      for (int a = 0; a < 4; a++) weight[a] = load4(own_weights + 4 * a * WEIGHTS + j);
#pragma unroll
      for (int e = 0; e < D / 32; e++) {
        const float* column = values + j * ROW + e * 32;
        const float4 v0 = load4(column), v1 = load4(column + ROW), v2 = load4(column + 2 * ROW), v3 = load4(column + 3 * ROW);
#pragma unroll
        for (int a = 0; a < 4; a++) {
          add_scaled(out[a][e], weight[a].x, v0);
          add_scaled(out[a][e], weight[a].y, v1);
          add_scaled(out[a][e], weight[a].z, v2);
          add_scaled(out[a][e], weight[a].w, v3);
        }
      }
    }
    __syncwarp();
  }

#pragma unroll
  for (int a = 0; a < 4; a++) {
    // A lane has summed up the weights of its own keys.
#pragma unroll
    for (int other = 1; other < 8; other *= 2) total[a] += __shfl_xor_sync(ALL, total[a], other);
    const int row = strip + at_row + 4 * a;
    if (row >= rows) continue;
    const bool whole = band.segments == 1;
    const float scale = !whole ? 1.0f : total[a] > 0 ? 1.0f / total[a] : 0.0f;
    float* const to = whole ? band.out + row * io.out_row : band.partial + row * D;
    if (!whole && at_key == 0) {
      band.partial[ROWS * D + row] = peak[a];
      band.partial[ROWS * D + ROWS + row] = total[a];
    }
#pragma unroll
    for (int e = 0; e < D / 32; e++) {
      const float4 result = {out[a][e][0] * scale, out[a][e][1] * scale, out[a][e][2] * scale, out[a][e][3] * scale};
      *reinterpret_cast<float4*>(to + e * 32 + at_key * 4) = result;
    }
  }
}

/// Adds up the segments of a tile; of those whose keys are all hidden the total is 0. A block a tile of a group that is cut, a warp a row.
__global__ void __launch_bounds__(128) add_segments_kernel(const __grid_constant__ SpanAttention io, int tile_rows) {
  const Band band = band_of(io, blockIdx.x, tile_rows);
  if (band.segments == 1 || band.segment > 0) return;
  const int lane = threadIdx.x % 32, d = io.d_head, step = tile_rows * (d + 2);
  for (int row = threadIdx.x / 32; row < band.rows; row += 4) {
    const float* peaks = band.partial + tile_rows * d + row;
    float peak = -INFINITY, total = 0, factors[SEGMENTS_MAX];
    for (int n = 0; n < band.segments; n++) peak = fmaxf(peak, peaks[n * step]);
    const float base = peak == -INFINITY ? 0.0f : peak;
#pragma unroll
    for (int n = 0; n < SEGMENTS_MAX; n++) {
      if (n >= band.segments) continue;
      factors[n] = expf(peaks[n * step] - base);
      total = fmaf(factors[n], peaks[n * step + tile_rows], total);
    }
    for (int j = lane; j < d; j += 32) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < SEGMENTS_MAX; n++) {
        if (n < band.segments) sum = fmaf(factors[n], band.partial[n * step + row * d + j], sum);
      }
      band.out[row * io.out_row + j] = total > 0 ? sum / total : sum;
    }
  }
}

constexpr int ANY_THREADS = 128;

/// Any head size, slowly: a block a query and head; weights of 128 keys at a time, then every thread sums its own columns of the values.
__global__ void __launch_bounds__(ANY_THREADS) span_attention_any_kernel(const __grid_constant__ SpanAttention io) {
  extern __shared__ float sums[];  // [d_head]
  __shared__ float weights[ANY_THREADS], reduced[ANY_THREADS];
  const Band band = band_of(io, blockIdx.x, 1);
  const int thread = threadIdx.x;
  const float reach = band.z != nullptr ? fminf(*band.z, band.cap) + io.ramp : 0.0f;
  auto reduce = [&](float x, bool largest) {
    reduced[thread] = x;
    __syncthreads();
    for (int half = ANY_THREADS / 2; half > 0; half /= 2) {
      if (thread < half) reduced[thread] = largest ? fmaxf(reduced[thread], reduced[thread + half]) : reduced[thread] + reduced[thread + half];
      __syncthreads();
    }
    const float result = reduced[0];
    __syncthreads();
    return result;
  };
  for (int d = thread; d < io.d_head; d += ANY_THREADS) sums[d] = 0;
  float peak = -INFINITY, total = 0;
  for (int start = 0; start < band.s; start += ANY_THREADS) {
    const int x = start + thread;
    float score = -INFINITY;
    if (x < band.s) {
      const float bias = band.bias != nullptr ? band.bias[x] : mask_of(reach, x, band.s, io.ramp);
      if (bias > SPAN_HIDDEN) {
        const float* key = band.keys + static_cast<int64_t>(band.window[x]) * band.width;
        score = bias;
        for (int d = 0; d < io.d_head; d++) score = fmaf(band.q[d], key[d] + band.pe[d * io.pe_stride + x], score);
      }
    }
    const float next = fmaxf(peak, reduce(score, true)), base = next == -INFINITY ? 0.0f : next;
    const float kept = expf(peak - base);
    peak = next;
    weights[thread] = expf(score - base);
    total = total * kept + reduce(weights[thread], false);
    for (int d = thread; d < io.d_head; d += ANY_THREADS) {
      float sum = sums[d] * kept;
      for (int j = 0; j < min(ANY_THREADS, band.s - start); j++) {
        if (weights[j] > 0) sum = fmaf(weights[j], band.values[static_cast<int64_t>(band.window[start + j]) * band.width + d], sum);
      }
      sums[d] = sum;
    }
    __syncthreads();
  }
  for (int d = thread; d < io.d_head; d += ANY_THREADS) band.out[d] = total > 0 ? sums[d] / total : 0.0f;
}

int blocks_of(const SpanAttention& io, int tile_rows) {
  int blocks = 0;
  for (int g = 0; g < io.group_count; g++) blocks += io.groups[g].heads * io.u * ((io.m + tile_rows - 1) / tile_rows) * io.groups[g].segments;
  return blocks;
}

/// Queries of a tile; 0: the head size has no kernel of its own. Two warps where a block's memory is all that an A100 has.
int tile_rows_of(int d_head) { return d_head == 32 || d_head == 64 ? 4 * STRIP : d_head == 128 ? 2 * STRIP : 0; }

/// Cuts the keys of each group, and says where the sums go. Returns how many numbers that takes.
size_t cut(SpanAttention& io, int tile_rows) {
  size_t numbers = 0;
  for (int g = 0; g < io.group_count; g++) {
    SpanGroup& group = io.groups[g];
    const int chunks = std::max(1, (std::min(tile_rows, io.m) + group.s - 1 + CHUNK - 1) / CHUNK);
    group.segments = std::min(SEGMENTS_MAX, (chunks + SEGMENT_CHUNKS - 1) / SEGMENT_CHUNKS);
    group.segment_chunks = (chunks + group.segments - 1) / group.segments;
    group.partial = io.scratch + numbers;
    if (group.segments > 1)
      numbers += static_cast<size_t>(group.heads) * io.u * ((io.m + tile_rows - 1) / tile_rows) * group.segments * tile_rows * (io.d_head + 2);
  }
  return numbers;
}

void leave_whole(SpanAttention& io) {
  for (int g = 0; g < io.group_count; g++) {
    io.groups[g].segments = 1;
    io.groups[g].segment_chunks = 1 << 20;
    io.groups[g].partial = nullptr;
  }
}

template <int D, int WARPS>
void launch(const SpanAttention& io, cudaStream_t stream) {
  constexpr int bytes = shared_floats<D, WARPS>() * static_cast<int>(sizeof(float));
  // Of the current device, so asked for with each launch: it costs less than to remember for which.
  cudaFuncSetAttribute(span_attention_kernel<D, WARPS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  span_attention_kernel<D, WARPS><<<blocks_of(io, WARPS * STRIP), WARPS * 32, bytes, stream>>>(io);
}

/// Whether 16 bytes can be read and written at once wherever the fast kernel does so.
bool aligned(const SpanAttention& io) {
  auto whole = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  for (int g = 0; g < io.group_count; g++) {
    const SpanGroup& group = io.groups[g];
    if (!whole(group.q) || !whole(group.keys) || !whole(group.values) || !whole(group.out)) return false;
  }
  return io.q_unit % 4 == 0 && io.q_head % 4 == 0 && io.q_row % 4 == 0 && io.out_row % 4 == 0;
}

}  // namespace

size_t span_scratch(const SpanAttention& io) {
  const int tile_rows = tile_rows_of(io.d_head);
  SpanAttention copy = io;
  copy.scratch = nullptr;
  return tile_rows == 0 || !aligned(io) ? 0 : cut(copy, tile_rows);
}

void span_attention(const SpanAttention& given, cudaStream_t stream) {
  SpanAttention io = given;
  leave_whole(io);
  if (blocks_of(io, 1) == 0) return;
  const int tile_rows = tile_rows_of(io.d_head);
  if (tile_rows == 0 || !aligned(io)) {
    span_attention_any_kernel<<<blocks_of(io, 1), ANY_THREADS, io.d_head * sizeof(float), stream>>>(io);
    return;
  }
  const bool cuts = io.scratch != nullptr && cut(io, tile_rows) > 0;
  switch (io.d_head) {
    case 32: launch<32, 4>(io, stream); break;
    case 64: launch<64, 4>(io, stream); break;
    case 128: launch<128, 2>(io, stream); break;
  }
  if (cuts) add_segments_kernel<<<blocks_of(io, tile_rows), 128, 0, stream>>>(io, tile_rows);
}

}  // namespace ponder

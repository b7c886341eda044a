// Attention of rows that each see keys of their own, as a decoder's do: a warp takes a row and one head. What takes time is waiting for memory, so the
// loads of 32 keys are under way at once, and the list of the first 128 is asked for in one go. Lanes hold 16 bytes of a key each, so that a few keys
// are worked on at a time; each group of lanes keeps a softmax of its own running (Milakov and Gimelshein 2018, arXiv 1805.02867), and they are put
// together at the end. Sums are made in an order that depends on the row's number of keys alone.
#include "kernels.h"

namespace ponder {
namespace {

constexpr int WARP = 32;
constexpr int WARPS = 4;
/// Runs of 32 keys whose list is loaded ahead.
constexpr int AHEAD = 4;
constexpr unsigned WHOLE_WARP = 0xffffffffu;

__device__ void widen(uint4 packed, float (&to)[8]) {
  const __half2* halves = reinterpret_cast<const __half2*>(&packed);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(halves[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

/// Sums relative to a peak: of `peak` -infinity, of nothing.
struct Running {
  float peak = -INFINITY, total = 0, sum[8] = {};

  __device__ void add(float score, const float (&v)[8]) {
    const float next = fmaxf(peak, score), kept = expf(peak - next), share = expf(score - next);
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] = sum[j] * kept + share * v[j];
    total = total * kept + share;
    peak = next;
  }

  /// The same in whichever order the two come.
  __device__ void merge(float its_peak, float its_total, const float (&its_sum)[8]) {
    const float next = fmaxf(peak, its_peak);
    // What has no key has nothing to add, and no peak to take a difference from.
    const float own = peak == -INFINITY ? 0.0f : expf(peak - next), its = its_peak == -INFINITY ? 0.0f : expf(its_peak - next);
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] = sum[j] * own + its_sum[j] * its;
    total = total * own + its_total * its;
    peak = next;
  }
};

template <int D>
__global__ void __launch_bounds__(WARPS* WARP, 4) row_attention_kernel(Attention io, int rows) {
  constexpr int PARTS = D / 8;          // lanes a key
  constexpr int GROUPS = WARP / PARTS;  // keys at a time
  constexpr int AT_ONCE = PARTS < 8 ? PARTS : 8;
  const int lane = threadIdx.x % WARP, part = lane % PARTS, group = lane / PARTS;
  const int at = blockIdx.x * WARPS + threadIdx.x / WARP, row = at / io.heads, head = at % io.heads, width = io.heads * D;
  if (row >= rows) return;
  const int first = io.seen == nullptr ? io.rows[row].first : io.seen[2 * row];
  const int visible = io.seen == nullptr ? io.rows[row].visible : io.seen[2 * row + 1];
  const size_t column = static_cast<size_t>(head) * D + part * 8;
  const uint4 query = *reinterpret_cast<const uint4*>(io.q + static_cast<size_t>(row) * io.stride + column);
  int slots[AHEAD];
#pragma unroll
  for (int run = 0; run < AHEAD; run++) slots[run] = run * WARP + lane < visible ? io.key_index[first + run * WARP + lane] : 0;
  float q[8];
  widen(query, q);
  Running running;
  for (int base = 0; base < visible; base += WARP) {
    int slot_of_lane = slots[0];
#pragma unroll
    for (int run = 1; run < AHEAD; run++) slots[run - 1] = slots[run];
    if (base >= AHEAD * WARP) slot_of_lane = base + lane < visible ? io.key_index[first + base + lane] : 0;
#pragma unroll
    for (int round = 0; round < PARTS; round += AT_ONCE) {
      if (base + round * GROUPS >= visible) break;
      uint4 keys[AT_ONCE], values[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        const int key = (round + i) * GROUPS + group;
        const size_t from = static_cast<size_t>(__shfl_sync(WHOLE_WARP, slot_of_lane, key)) * width + column;
        keys[i] = values[i] = {};
        if (base + key < visible) {
          keys[i] = *reinterpret_cast<const uint4*>(io.keys + from);
          values[i] = *reinterpret_cast<const uint4*>(io.values + from);
        }
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        float k[8], v[8], score = 0;
        widen(keys[i], k);
        widen(values[i], v);
#pragma unroll
        for (int j = 0; j < 8; j++) score += q[j] * k[j];
#pragma unroll
        for (int offset = 1; offset < PARTS; offset *= 2) score += __shfl_xor_sync(WHOLE_WARP, score, offset);
        if (base + (round + i) * GROUPS + group < visible) running.add(score, v);
      }
    }
  }
#pragma unroll
  for (int offset = PARTS; offset < WARP; offset *= 2) {
    const float its_peak = __shfl_xor_sync(WHOLE_WARP, running.peak, offset), its_total = __shfl_xor_sync(WHOLE_WARP, running.total, offset);
    float its_sum[8];
#pragma unroll
    for (int j = 0; j < 8; j++) its_sum[j] = __shfl_xor_sync(WHOLE_WARP, running.sum[j], offset);
    running.merge(its_peak, its_total, its_sum);
  }
  if (group > 0) return;
  const float scale = running.total > 0 ? 1.0f / running.total : 0.0f;
  uint4 packed;
  __half2* out = reinterpret_cast<__half2*>(&packed);
#pragma unroll
  for (int i = 0; i < 4; i++) out[i] = __floats2half2_rn(running.sum[2 * i] * scale, running.sum[2 * i + 1] * scale);
  *reinterpret_cast<uint4*>(io.out + static_cast<size_t>(row) * width + column) = packed;
}

}  // namespace

bool row_attention(const Attention& io, int rows, cudaStream_t stream) {
  const int blocks = (rows * io.heads + WARPS - 1) / WARPS;
  if (rows == 0) return true;
  switch (io.d_head) {
    case 32: row_attention_kernel<32><<<blocks, WARPS * WARP, 0, stream>>>(io, rows); return true;
    case 64: row_attention_kernel<64><<<blocks, WARPS * WARP, 0, stream>>>(io, rows); return true;
    case 128: row_attention_kernel<128><<<blocks, WARPS * WARP, 0, stream>>>(io, rows); return true;
    default: return false;
  }
}

}  // namespace ponder

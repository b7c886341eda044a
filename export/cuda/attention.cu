// Ragged attention on tensor cores, after FlashAttention-2 (Dao 2023, arXiv 2307.08691): a block takes a tile of up to 64 queries that see the
// same keys, and one head; a warp takes 16 of the queries. Keys and values come through an index list, CHUNK at a time, into shared memory, while
// earlier chunks are worked on; scores never leave registers, the softmax is kept running in float32.
//
// Chunks of keys start at the tile's first key, so a query's sums are made in the same order whatever else is in the tile or the batch.
#include "kernels.h"
#include "mma.h"

namespace ponder {
namespace {

constexpr int WARPS = TILE_ROWS / 16;
constexpr int THREADS = WARPS * 32;
constexpr int CHUNK = 32;

__device__ unsigned pair(float low, float high) {
  const __half2 packed = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&packed);
}

/// Blocks of a multiprocessor at a time: while one waits for its first keys, others compute. Registers set the limit.
constexpr int blocks_at_once(int d_head) { return d_head > 64 ? 3 : 5; }

template <int D>
__global__ void __launch_bounds__(THREADS, blocks_at_once(D)) attention_kernel(Attention io) {
  // Eight numbers of padding a row put the rows that a warp reads together into different banks.
  constexpr int STRIDE = D + 8;
  // Chunks in shared memory at a time: one that is worked on, the others on their way.
  constexpr int STAGES = D > 64 ? 2 : 3;
  constexpr int PARTS = D / 8;  // of 16 bytes a key
  constexpr int COPIES = CHUNK * PARTS / THREADS;
  __shared__ __align__(16) __half all_keys[STAGES][CHUNK * STRIDE];
  __shared__ __align__(16) __half all_values[STAGES][CHUNK * STRIDE];
  __shared__ int seen_by_tile;

  const Tile tile = io.tiles[blockIdx.x];
  if (tile.count == 0) return;
  const int head = blockIdx.y, width = io.heads * D;
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32, group = thread / 4, column = thread % 4;
  auto first_of = [&](int row) { return io.seen == nullptr ? io.rows[row].first : io.seen[2 * row]; };
  auto visible_of = [&](int row) { return io.seen == nullptr ? io.rows[row].visible : io.seen[2 * row + 1]; };

  if (threadIdx.x == 0) seen_by_tile = 0;
  __syncthreads();
  if (threadIdx.x < tile.count) atomicMax(&seen_by_tile, visible_of(tile.first + threadIdx.x));
  const int first_key = first_of(tile.first);

  // This thread's two rows of the warp's sixteen.
  const int row[2] = {warp * 16 + group, warp * 16 + group + 8};
  int visible[2];
  unsigned q[D / 16][4];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool real = row[half] < tile.count;
    visible[half] = real ? visible_of(tile.first + row[half]) : 0;
    const __half* from = io.q + static_cast<size_t>(tile.first + (real ? row[half] : 0)) * io.stride + head * D + column * 2;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      q[k][half] = real ? *reinterpret_cast<const unsigned*>(from + k * 16) : 0u;
      q[k][half + 2] = real ? *reinterpret_cast<const unsigned*>(from + k * 16 + 8) : 0u;
    }
  }
  float out[D / 8][4] = {};
  float peak[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  int seen_by_warp = max(visible[0], visible[1]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) seen_by_warp = max(seen_by_warp, __shfl_xor_sync(0xffffffffu, seen_by_warp, offset));
  __syncthreads();
  const int seen = seen_by_tile;

  const int chunks = (seen + CHUNK - 1) / CHUNK;
  // Where this thread's parts of the next chunk lie, asked for one chunk ahead.
  int slots[COPIES];
  auto find = [&](int chunk) {
#pragma unroll
    for (int j = 0; j < COPIES; j++) {
      const int key = chunk * CHUNK + (threadIdx.x + j * THREADS) / PARTS;
      slots[j] = key < seen ? io.key_index[first_key + key] : -1;
    }
  };
  auto fetch = [&](int chunk) {
    if (chunk < chunks) {
#pragma unroll
      for (int j = 0; j < COPIES; j++) {
        const int i = threadIdx.x + j * THREADS, key = i / PARTS, part = i % PARTS;
        const bool beyond = slots[j] < 0;
        // What lies beyond is cleared: its weight is zero, but zero times anything left there may be no number.
        const size_t from = beyond ? 0 : static_cast<size_t>(slots[j]) * width + head * D + part * 8;
        start_copy(all_keys[chunk % STAGES] + key * STRIDE + part * 8, io.keys + from, beyond);
        start_copy(all_values[chunk % STAGES] + key * STRIDE + part * 8, io.values + from, beyond);
      }
      find(chunk + 1);
    }
    end_of_chunk();
  };
  find(0);
#pragma unroll
  for (int chunk = 0; chunk < STAGES - 1; chunk++) fetch(chunk);

  for (int chunk = 0; chunk < chunks; chunk++) {
    await_chunk<STAGES - 2>();
    // Everyone's copies have arrived, and everyone is done with the stage that is filled next.
    __syncthreads();
    fetch(chunk + STAGES - 1);
    const __half* keys = all_keys[chunk % STAGES];
    const __half* values = all_values[chunk % STAGES];
    const int start = chunk * CHUNK, left = seen_by_warp - start;
    if (left > 0) {
      float score[CHUNK / 8][4] = {};
#pragma unroll
      for (int n = 0; n < CHUNK / 8; n++) {
        if (n * 8 >= left) continue;  // hidden below
#pragma unroll
        for (int k = 0; k < D / 16; k += 2) {
          unsigned b[4];
          load(b, keys + (n * 8 + thread % 8) * STRIDE + k * 16 + thread / 8 * 8);
          multiply(score[n], q[k], b[0], b[1]);
          multiply(score[n], q[k + 1], b[2], b[3]);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float best = -INFINITY;
#pragma unroll
        for (int n = 0; n < CHUNK / 8; n++) {
#pragma unroll
          for (int j = 0; j < 2; j++) {
            float& s = score[n][half * 2 + j];
            if (start + n * 8 + column * 2 + j >= visible[half]) s = -INFINITY;
            best = fmaxf(best, s);
          }
        }
        const float next = fmaxf(peak[half], max_over_quad(best));
        const float base = next == -INFINITY ? 0.0f : next;
        const float kept = exp2f((peak[half] - base) * LOG2E);
        peak[half] = next;
        float added = 0;
#pragma unroll
        for (int n = 0; n < CHUNK / 8; n++) {
#pragma unroll
          for (int j = 0; j < 2; j++) {
            float& s = score[n][half * 2 + j];
            s = exp2f((s - base) * LOG2E);
            added += s;
          }
        }
        total[half] = total[half] * kept + sum_over_quad(added);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
          out[n][half * 2] *= kept;
          out[n][half * 2 + 1] *= kept;
        }
      }
#pragma unroll
      for (int block = 0; block < CHUNK / 16; block++) {
        if (block * 16 >= left) continue;
        const unsigned weights[4] = {
            pair(score[2 * block][0], score[2 * block][1]), pair(score[2 * block][2], score[2 * block][3]),
            pair(score[2 * block + 1][0], score[2 * block + 1][1]), pair(score[2 * block + 1][2], score[2 * block + 1][3])};
        const int value_row = block * 16 + thread % 8 + thread / 8 % 2 * 8;
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
          unsigned v[4];
          load_transposed(v, values + value_row * STRIDE + (n + thread / 16) * 8);
          multiply(out[n], weights, v[0], v[1]);
          multiply(out[n + 1], weights, v[2], v[3]);
        }
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (row[half] >= tile.count) continue;
    const float scale = total[half] > 0 ? 1.0f / total[half] : 0.0f;
    __half* to = io.out + static_cast<size_t>(tile.first + row[half]) * width + head * D + column * 2;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      *reinterpret_cast<unsigned*>(to + n * 8) = pair(out[n][half * 2] * scale, out[n][half * 2 + 1] * scale);
    }
  }
}

}  // namespace

bool attention(const Attention& io, cudaStream_t stream) {
  if (io.tile_count == 0) return true;
  const dim3 grid(io.tile_count, io.heads);
  switch (io.d_head) {
    case 32: attention_kernel<32><<<grid, THREADS, 0, stream>>>(io); return true;
    case 64: attention_kernel<64><<<grid, THREADS, 0, stream>>>(io); return true;
    case 128: attention_kernel<128><<<grid, THREADS, 0, stream>>>(io); return true;
  }
  return false;
}

}  // namespace ponder

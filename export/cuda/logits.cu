// The output layer without its logits: a row of 8192 words is 32 KiB that would be written to be read once or twice. A block multiplies a tile of rows
// with a tile of words on tensor cores, and what leaves it of every 64 words is their largest logit, its word, and the sum of exponentials relative
// to it (Milakov and Gimelshein 2018, arXiv 1805.02867). A second kernel makes of these what is asked for.
//
// A group of 64 words is one warp's in tiles of every shape, and a product runs over d in the same order: a row's result does not depend on the shape
// that is chosen for the number of rows. Where `logits_hopper.cu` can run, the tiles are its.
#include "kernels.h"
#include "mma.h"

namespace ponder {
namespace {

/// Numbers of d in shared memory at a time, a row of x or of w: PIECES of 16 bytes.
constexpr int CHUNK = 32;
constexpr int PIECES = CHUNK / 8;
/// Chunks in shared memory: one that is worked on, the others on their way.
constexpr int STAGES = 4;
constexpr int BLOCKS_OF_8 = LOGIT_GROUP / 8;

/// Tiles of a block of ROWS_OF_WARPS x WORDS_OF_WARPS warps, each with 16 BLOCKS rows and a group of words.
template <int ROWS_OF_WARPS, int WORDS_OF_WARPS, int BLOCKS, int AT_ONCE>
struct TileShape {
  static constexpr int row_warps = ROWS_OF_WARPS;
  static constexpr int blocks = BLOCKS;
  static constexpr int rows = ROWS_OF_WARPS * BLOCKS * 16;
  static constexpr int words = WORDS_OF_WARPS * LOGIT_GROUP;
  static constexpr int threads = 32 * ROWS_OF_WARPS * WORDS_OF_WARPS;
  static constexpr int at_once = AT_ONCE;
  static constexpr int stage = (rows + words) * CHUNK;
  static constexpr int bytes = STAGES * stage * static_cast<int>(sizeof(__half));
  static constexpr int copies = (rows + words) * PIECES / threads;
  static_assert(copies * threads == (rows + words) * PIECES);
};
using Small = TileShape<4, 1, 1, 4>;
using Medium = TileShape<4, 2, 2, 2>;
using Large = TileShape<2, 4, 4, 1>;

/// Where a piece of a row lies in a stage. Pieces change places from two rows to the next two, so that eight rows which a warp reads together lie in
/// different banks.
__device__ int place(int row, int piece) { return row * CHUNK + (piece ^ (row / 2 % PIECES)) * 8; }

/// x [rows, d], w [vocabulary, d] -> of group g and row r: peaks[g, r], sums[g, r], ids[g, r].
template <typename T>
__global__ void __launch_bounds__(T::threads, T::at_once)
    logit_groups_kernel(const __half* x, const __half* w, const float* scale, int rows, int vocabulary, int d, float* peaks, float* sums, int32_t* ids) {
  extern __shared__ __align__(16) __half stages[];
  const int first_row = blockIdx.x * T::rows, first_word = blockIdx.y * T::words;
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32, quad = thread / 4, column = thread % 4;
  const int warp_row = warp % T::row_warps * (T::blocks * 16), warp_word = warp / T::row_warps * LOGIT_GROUP;
  const int chunks = d / CHUNK;

  // Rows of x come first in a stage, those of w behind them.
  auto fetch = [&](int chunk) {
    if (chunk < chunks) {
      __half* stage = stages + chunk % STAGES * T::stage;
#pragma unroll
      for (int j = 0; j < T::copies; j++) {
        const int i = threadIdx.x + j * T::threads, row = i / PIECES, piece = i % PIECES;
        const bool of_x = row < T::rows;
        const int at = of_x ? first_row + row : first_word + row - T::rows;
        const bool beyond = at >= (of_x ? rows : vocabulary);
        const size_t from = beyond ? 0 : static_cast<size_t>(at) * d + chunk * CHUNK + piece * 8;
        start_copy(stage + place(row, piece), (of_x ? x : w) + from, beyond);
      }
    }
    end_of_chunk();
  };
#pragma unroll
  for (int chunk = 0; chunk < STAGES - 1; chunk++) fetch(chunk);

  float logit[T::blocks][BLOCKS_OF_8][4] = {};
  for (int chunk = 0; chunk < chunks; chunk++) {
    await_chunk<STAGES - 2>();
    // Everyone's copies have arrived, and everyone is done with the stage that is filled next.
    __syncthreads();
    fetch(chunk + STAGES - 1);
    const __half* stage = stages + chunk % STAGES * T::stage;
    unsigned a[T::blocks][2][4];
#pragma unroll
    for (int m = 0; m < T::blocks; m++) {
#pragma unroll
      for (int k = 0; k < 2; k++) load(a[m][k], stage + place(warp_row + m * 16 + thread % 16, k * 2 + thread / 16));
    }
#pragma unroll
    for (int n = 0; n < BLOCKS_OF_8; n++) {
      unsigned b[4];
      load(b, stage + place(T::rows + warp_word + n * 8 + thread % 8, thread / 8));
#pragma unroll
      for (int m = 0; m < T::blocks; m++) multiply(logit[m][n], a[m][0], b[0], b[1]);
#pragma unroll
      for (int m = 0; m < T::blocks; m++) multiply(logit[m][n], a[m][1], b[2], b[3]);
    }
  }

  // This thread's words of the group: n * 8 + column * 2 + j. A row of the group lies in the four threads of a quad.
  const int first = first_word + warp_word;
  if (first >= vocabulary) return;
#pragma unroll
  for (int n = 0; n < BLOCKS_OF_8; n++) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int word = first + n * 8 + column * 2 + j;
      const float factor = word < vocabulary ? scale[word] : 0.0f;
#pragma unroll
      for (int m = 0; m < T::blocks; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float& v = logit[m][n][half * 2 + j];
          // Rounded here: fused with what follows, it would depend on the shape.
          v = word < vocabulary ? __fmul_rn(v, factor) : -INFINITY;
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < T::blocks; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float peak = -INFINITY;
#pragma unroll
      for (int n = 0; n < BLOCKS_OF_8; n++) peak = fmaxf(peak, fmaxf(logit[m][n][half * 2], logit[m][n][half * 2 + 1]));
      peak = max_over_quad(peak);
      // Nothing but numbers that are none: they reach the sum, and with it the result.
      const float base = peak == -INFINITY ? 0.0f : peak;
      float total = 0;
      int best = 0x7fffffff;
#pragma unroll
      for (int n = 0; n < BLOCKS_OF_8; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const float v = logit[m][n][half * 2 + j];
          total += exp2f((v - base) * LOG2E);
          if (v == peak) best = min(best, first + n * 8 + column * 2 + j);
        }
      }
      total = sum_over_quad(total);
      best = min(best, __shfl_xor_sync(0xffffffffu, best, 1));
      best = min(best, __shfl_xor_sync(0xffffffffu, best, 2));
      const int row = first_row + warp_row + m * 16 + half * 8 + quad;
      if (column != 0 || row >= rows) continue;
      const size_t at = static_cast<size_t>(first / LOGIT_GROUP) * rows + row;
      peaks[at] = peak;
      sums[at] = total;
      ids[at] = best;
    }
  }
}

/// Rows of a block that makes totals of groups: eight neighbours are 32 bytes of each group, the least that memory gives. Each has PARTS threads.
constexpr int REDUCED_ROWS = 8;
constexpr int PARTS = 32;
constexpr int REDUCING = REDUCED_ROWS * PARTS;
constexpr int REDUCING_WARPS = REDUCING / 32;
static_assert(REDUCING_WARPS == REDUCED_ROWS);
/// Groups of a thread that are fetched at once.
constexpr int GROUPS_AT_ONCE = 4;

/// Of some groups of a row: the largest logit, the sum of exponentials relative to it, and the group that holds it, of equal ones the first.
struct Total {
  float peak, sum;
  int group;
};
__device__ Total both(Total a, Total b) {
  const float peak = fmaxf(a.peak, b.peak), base = peak == -INFINITY ? 0.0f : peak;
  const float sum = a.sum * exp2f((a.peak - base) * LOG2E) + b.sum * exp2f((b.peak - base) * LOG2E);
  return {peak, sum, b.peak > a.peak || (b.peak == a.peak && b.group < a.group) ? b.group : a.group};
}
__device__ Total with_other(Total t, int lanes) {
  return both(t, {__shfl_xor_sync(0xffffffffu, t.peak, lanes), __shfl_xor_sync(0xffffffffu, t.sum, lanes), __shfl_xor_sync(0xffffffffu, t.group, lanes)});
}

/// A thread takes every 32nd group of a row, threads REDUCED_ROWS apart are the same row's. The first eight threads of a block then have their row's total.
__device__ Total total_of_groups(const float* peaks, const float* sums, int rows, int groups, int row) {
  __shared__ Total total_of[REDUCING_WARPS][REDUCED_ROWS];
  const int part = threadIdx.x / REDUCED_ROWS, place = threadIdx.x % REDUCED_ROWS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Total total = {-INFINITY, 0.0f, 0x7fffffff};
  if (row < rows) {
    for (int first = part; first < groups; first += GROUPS_AT_ONCE * PARTS) {
      Total next[GROUPS_AT_ONCE];
#pragma unroll
      for (int i = 0; i < GROUPS_AT_ONCE; i++) {
        const int group = first + i * PARTS;
        const size_t at = static_cast<size_t>(group) * rows + row;
        next[i] = group < groups ? Total{peaks[at], sums[at], group} : Total{-INFINITY, 0.0f, 0x7fffffff};
      }
#pragma unroll
      for (int i = 0; i < GROUPS_AT_ONCE; i++) total = both(total, next[i]);
    }
  }
  total = with_other(with_other(total, REDUCED_ROWS), 2 * REDUCED_ROWS);
  if (lane < REDUCED_ROWS) total_of[warp][place] = total;
  __syncthreads();
  if (warp != 0) return total;
  total = both(total_of[part][place], total_of[part + REDUCING_WARPS / 2][place]);
  return with_other(with_other(total, REDUCED_ROWS), 2 * REDUCED_ROWS);
}

__global__ void __launch_bounds__(REDUCING) grouped_target_kernel(const float* peaks, const float* sums, const __half* x, const __half* w,
                                                                 const float* scale, const int32_t* targets, int rows, int groups, int d,
                                                                 float* logprob) {
  __shared__ int target_of[REDUCED_ROWS];
  __shared__ float logit_of[REDUCED_ROWS];
  const int first = blockIdx.x * REDUCED_ROWS, place = threadIdx.x % REDUCED_ROWS, row = first + place;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Asked for first, and by the block in one go: the list may lie in the host's memory.
  const int target = threadIdx.x < REDUCED_ROWS && row < rows ? max(targets[row], 0) : 0;
  const Total total = total_of_groups(peaks, sums, rows, groups, row);
  if (threadIdx.x < REDUCED_ROWS) target_of[place] = target;
  __syncthreads();
  // The target's logit is computed once more, a row a warp, rather than looked for by every tile.
  if (first + warp < rows) {
    const __half *a = x + static_cast<size_t>(first + warp) * d, *b = w + static_cast<size_t>(target_of[warp]) * d;
    float product = 0;
#pragma unroll 2
    for (int j = lane * 8; j < d; j += 256) {
      const uint4 eight_of_a = *reinterpret_cast<const uint4*>(a + j), eight_of_b = *reinterpret_cast<const uint4*>(b + j);
      const auto *p = reinterpret_cast<const __half2*>(&eight_of_a), *q = reinterpret_cast<const __half2*>(&eight_of_b);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 u = __half22float2(p[i]), v = __half22float2(q[i]);
        product += u.x * v.x + u.y * v.y;
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) product += __shfl_xor_sync(0xffffffffu, product, offset);
    if (lane == 0) logit_of[warp] = product * scale[target_of[warp]];
  }
  __syncthreads();
  if (threadIdx.x < REDUCED_ROWS && row < rows) logprob[row] = logit_of[place] - (total.peak + logf(total.sum));
}

__global__ void __launch_bounds__(REDUCING) grouped_best_kernel(const float* peaks, const float* sums, const int32_t* words, int rows, int groups,
                                                               int vocabulary, float* best, int32_t* ids) {
  const int row = blockIdx.x * REDUCED_ROWS + threadIdx.x % REDUCED_ROWS;
  const Total total = total_of_groups(peaks, sums, rows, groups, row);
  if (threadIdx.x >= REDUCED_ROWS || row >= rows) return;
  best[row] = total.peak - (total.peak + logf(total.sum));
  const int word = words[static_cast<size_t>(total.group) * rows + row];
  ids[row] = word < vocabulary ? word : 0;
}

template <typename T>
void launch(const LogitGroups& io, cudaStream_t stream) {
  const dim3 grid((io.rows + T::rows - 1) / T::rows, (io.vocabulary + T::words - 1) / T::words);
  // More than 48 KiB have to be asked for, on every device anew.
  cudaFuncSetAttribute(logit_groups_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::bytes);
  logit_groups_kernel<T><<<grid, T::threads, T::bytes, stream>>>(io.x, io.w, io.scale, io.rows, io.vocabulary, io.d, io.peaks, io.sums, io.ids);
}

}  // namespace

void logit_groups(const LogitGroups& io, cudaStream_t stream, LogitTiles tiles) {
  if (io.rows == 0) return;
  if (tiles == LogitTiles::by_rows && hopper_has(io)) return hopper_logit_groups(io, 0, stream);
  // Up to 128 rows, 64 x 64 words fill all multiprocessors; above, larger tiles read less.
  if (tiles == LogitTiles::by_rows) tiles = io.rows <= 128 ? LogitTiles::small : io.rows <= 384 ? LogitTiles::medium : LogitTiles::large;
  switch (tiles) {
    case LogitTiles::by_rows:
    case LogitTiles::small: return launch<Small>(io, stream);
    case LogitTiles::medium: return launch<Medium>(io, stream);
    case LogitTiles::large: return launch<Large>(io, stream);
  }
}

void grouped_target_logprob(const LogitGroups& io, const int32_t* targets, float* logprob, cudaStream_t stream) {
  if (io.rows == 0) return;
  grouped_target_kernel<<<(io.rows + REDUCED_ROWS - 1) / REDUCED_ROWS, REDUCING, 0, stream>>>(
      io.peaks, io.sums, io.x, io.w, io.scale, targets, io.rows, logit_groups_of(io.vocabulary), io.d, logprob);
}

void grouped_best(const LogitGroups& io, float* best, int32_t* ids, cudaStream_t stream) {
  if (io.rows == 0) return;
  grouped_best_kernel<<<(io.rows + REDUCED_ROWS - 1) / REDUCED_ROWS, REDUCING, 0, stream>>>(
      io.peaks, io.sums, io.ids, io.rows, logit_groups_of(io.vocabulary), io.vocabulary, best, ids);
}

}  // namespace ponder

// The output layer without its logits: a row of 8192 words is 32 KiB that would be written to be read once or twice. A block multiplies a tile of rows
// with a tile of words on tensor cores, and what leaves it of every 64 words is their largest logit, its word, and the sum of exponentials relative
// to it (Milakov and Gimelshein 2018, arXiv 1805.02867). A second kernel makes of these what is asked for.
//
// A group of 64 words is one warp's in tiles of every shape, and a product runs over d in the same order: a row's result does not depend on the shape
// that is chosen for the number of rows.
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

constexpr int REDUCED_ROWS = 32;
constexpr int PARTS = 8;
constexpr int REDUCING = REDUCED_ROWS * PARTS;

/// Of a row: its largest logit, the group that holds it, and the logarithm of the sum of exponentials relative to it.
struct Total {
  float peak, log_sum;
  int group;
};

/// A thread takes every eighth group of a row; the first warp's threads then have their row's total.
__device__ Total total_of_groups(const float* peaks, const float* sums, int rows, int groups, int row) {
  __shared__ float peak_of[PARTS][REDUCED_ROWS], sum_of[PARTS][REDUCED_ROWS];
  __shared__ int group_of[PARTS][REDUCED_ROWS];
  const int part = threadIdx.x / REDUCED_ROWS, place = threadIdx.x % REDUCED_ROWS;
  float peak = -INFINITY, total = 0;
  int best = 0;
  auto add = [&](float other, float sum, int group) {
    const float next = fmaxf(peak, other), base = next == -INFINITY ? 0.0f : next;
    total = total * exp2f((peak - base) * LOG2E) + sum * exp2f((other - base) * LOG2E);
    if (other > peak || (other == peak && group < best)) best = group;
    peak = next;
  };
  if (row < rows) {
#pragma unroll 4
    for (int group = part; group < groups; group += PARTS) {
      const size_t at = static_cast<size_t>(group) * rows + row;
      add(peaks[at], sums[at], group);
    }
  }
  peak_of[part][place] = peak;
  sum_of[part][place] = total;
  group_of[part][place] = best;
  __syncthreads();
  if (part == 0) {
    for (int other = 1; other < PARTS; other++) add(peak_of[other][place], sum_of[other][place], group_of[other][place]);
  }
  return {peak, logf(total), best};
}

__global__ void __launch_bounds__(REDUCING) grouped_target_kernel(const float* peaks, const float* sums, const __half* x, const __half* w,
                                                                 const float* scale, const int32_t* targets, int rows, int groups, int d,
                                                                 float* logprob) {
  __shared__ int target_of[REDUCED_ROWS];
  __shared__ float product_of[REDUCED_ROWS];
  const int first = blockIdx.x * REDUCED_ROWS, place = threadIdx.x % REDUCED_ROWS, row = first + place;
  // Fetched by the block in one go: the list may lie in the host's memory.
  if (threadIdx.x < REDUCED_ROWS) target_of[place] = row < rows ? max(targets[row], 0) : 0;
  const Total total = total_of_groups(peaks, sums, rows, groups, row);
  __syncthreads();
  // The target's logit is computed once more, a row a warp, rather than looked for by every tile.
  for (int i = threadIdx.x / 32; i < REDUCED_ROWS; i += REDUCING / 32) {
    if (first + i >= rows) break;
    const auto* a = reinterpret_cast<const __half2*>(x + static_cast<size_t>(first + i) * d);
    const auto* b = reinterpret_cast<const __half2*>(w + static_cast<size_t>(target_of[i]) * d);
    float product = 0;
    for (int j = threadIdx.x % 32; j < d / 2; j += 32) {
      const float2 p = __half22float2(a[j]), q = __half22float2(b[j]);
      product += p.x * q.x + p.y * q.y;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) product += __shfl_xor_sync(0xffffffffu, product, offset);
    if (threadIdx.x % 32 == 0) product_of[i] = product;
  }
  __syncthreads();
  if (threadIdx.x < REDUCED_ROWS && row < rows)
    logprob[row] = product_of[place] * scale[target_of[place]] - (total.peak + total.log_sum);
}

__global__ void __launch_bounds__(REDUCING) grouped_best_kernel(const float* peaks, const float* sums, const int32_t* words, int rows, int groups,
                                                               int vocabulary, float* best, int32_t* ids) {
  const int row = blockIdx.x * REDUCED_ROWS + threadIdx.x % REDUCED_ROWS;
  const Total total = total_of_groups(peaks, sums, rows, groups, row);
  if (threadIdx.x >= REDUCED_ROWS || row >= rows) return;
  best[row] = total.peak - (total.peak + total.log_sum);
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

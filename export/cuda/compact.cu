// The rows of the next step, made on the device: one block walks the table in chunks of a row a thread, so that a row's new place (a prefix sum)
// is known without asking the host. 8192 rows are 8 chunks.
#include "kernels.h"

namespace ponder {
namespace {

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;

/// Exclusive prefix sum over the block; `total` is the sum. Every thread calls.
__device__ int exclusive_sum(int value, int* warp_sums, int& total) {
  const int thread = threadIdx.x % 32, warp = threadIdx.x / 32;
  int inclusive = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, inclusive, offset);
    if (thread >= offset) inclusive += below;
  }
  if (thread == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  if (warp == 0) {
    int sum = warp_sums[thread];
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int below = __shfl_up_sync(0xffffffffu, sum, offset);
      if (thread >= offset) sum += below;
    }
    warp_sums[thread] = sum;
  }
  __syncthreads();
  const int before = warp == 0 ? 0 : warp_sums[warp - 1];
  total = warp_sums[WARPS - 1];
  __syncthreads();
  return before + inclusive - value;
}

__device__ Row padding() {
  Row r = {};
  r.slot = -1;
  r.cache_row = -1;
  r.step = 1;
  r.limits = 255 * 256;
  return r;
}

/// Tiles of lanes in order, from how many rows each has and where they begin; a lane a thread. Then the report.
__device__ void write_tiles(const int* counts, const int* firsts, int* warp_sums, int active, int renewed, Tile* tiles, int tile_capacity,
                            int32_t* progress) {
  const int lane = threadIdx.x;
  const int count = counts[lane];
  int total;
  const int tile = exclusive_sum((count + TILE_ROWS - 1) / TILE_ROWS, warp_sums, total);
  for (int done = 0, at = tile; done < count; done += TILE_ROWS, at++) {
    if (at < tile_capacity) tiles[at] = {firsts[lane] + done, min(TILE_ROWS, count - done)};
  }
  for (int i = total + threadIdx.x; i < tile_capacity; i += THREADS) tiles[i] = {0, 0};
  progress[PROGRESS_HEAD + lane] = count;
  if (lane == 0) {
    progress[0] = active;
    progress[1] = renewed;
    progress[2] = total;
    progress[3] = 0;
  }
}

__global__ void __launch_bounds__(THREADS) compact_rows_kernel(Compaction io) {
  __shared__ int counts[LANES_MAX];
  __shared__ int firsts[LANES_MAX];
  __shared__ int warp_sums[WARPS];
  for (int lane = threadIdx.x; lane < LANES_MAX; lane += THREADS) {
    counts[lane] = 0;
    firsts[lane] = 0x7fffffff;
  }
  __syncthreads();
  // What a lane keeps decides whether its halted rows are worth renewing, so it is counted first.
  for (int i = threadIdx.x; i < io.active_count; i += THREADS) {
    const Row& r = io.active[i];
    if (r.slot >= 0 && (io.halted == nullptr || !io.halted[i])) atomicAdd(&counts[r.lane], 1);
  }
  __syncthreads();
  int kept = 0, renewed = 0;
  for (int start = 0; start < io.active_count; start += THREADS) {
    const int i = start + threadIdx.x;
    Row r = padding();
    float threshold = 1.0f;
    bool halted = false;
    if (i < io.active_count) {
      r = io.active[i];
      threshold = io.threshold[i];
      halted = io.halted != nullptr && io.halted[i];
    }
    const bool real = r.slot >= 0;
    const bool keeps = real && !halted, renews = real && halted && counts[r.lane] > 0;
    if (real && halted) {
      io.depths[r.slot] = r.step;
      io.remainders[r.slot] = io.remainder[i];
    }
    if (io.halted != nullptr) r.step += 1;
    int total;
    // Both sums in one: at most 1024 rows a chunk.
    const int places = exclusive_sum((keeps ? 1 : 0) | (renews ? 1 << 16 : 0), warp_sums, total);
    // All rows of the chunk have been read: the places written lie at or before it.
    if (keeps) {
      const int to = kept + (places & 0xffff);
      io.active[to] = r;
      io.threshold[to] = threshold;
      atomicMin(&firsts[r.lane], to);
    }
    if (renews) {
      const int to = renewed + (places >> 16);
      if (to < io.renewed_capacity) io.renewed[to] = r;
    }
    kept += total & 0xffff;
    renewed += total >> 16;
    __syncthreads();
  }
  for (int i = kept + threadIdx.x; i < io.active_count; i += THREADS) {
    io.active[i] = padding();
    io.threshold[i] = 1.0f;
  }
  for (int i = renewed + threadIdx.x; i < io.renewed_count; i += THREADS) io.renewed[i] = padding();
  write_tiles(counts, firsts, warp_sums, kept, renewed, io.tiles, io.tile_capacity, io.progress);
}

__global__ void __launch_bounds__(THREADS) tile_rows_kernel(const Row* active, int active_count, Tile* tiles, int tile_capacity, int32_t* progress) {
  __shared__ int counts[LANES_MAX];
  __shared__ int firsts[LANES_MAX];
  __shared__ int warp_sums[WARPS];
  counts[threadIdx.x] = 0;
  firsts[threadIdx.x] = 0x7fffffff;
  __syncthreads();
  for (int i = threadIdx.x; i < active_count; i += THREADS) {
    const Row r = active[i];
    if (r.slot < 0) continue;
    atomicAdd(&counts[r.lane], 1);
    atomicMin(&firsts[r.lane], i);
  }
  __syncthreads();
  int active_rows;
  exclusive_sum(counts[threadIdx.x], warp_sums, active_rows);
  write_tiles(counts, firsts, warp_sums, active_rows, 0, tiles, tile_capacity, progress);
}

}  // namespace

static_assert(LANES_MAX == THREADS, "a thread a lane");

void compact_rows(const Compaction& io, cudaStream_t stream) { compact_rows_kernel<<<1, THREADS, 0, stream>>>(io); }

void tile_rows(const Row* active, int active_count, Tile* tiles, int tile_capacity, int32_t* progress, cudaStream_t stream) {
  tile_rows_kernel<<<1, THREADS, 0, stream>>>(active, active_count, tiles, tile_capacity, progress);
}

}  // namespace ponder

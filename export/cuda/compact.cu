// The rows of the next step, made on the device: one block walks the table twice, so that a row's new place (a prefix sum) is known without asking
// the host. First it counts the rows that each lane keeps, then it moves them, in rounds of MOVED rows a thread: what takes time is waiting for
// memory, so all loads of a round are under way at once.
//
// From Hopper on a cluster of blocks does it instead, a row a thread: rows are read once, counters and sums go through the first block's shared
// memory, and 8192 rows take a quarter of the time.
#include <cooperative_groups.h>

#include "kernels.h"

namespace ponder {
namespace {

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
/// Rows a thread loads at once: to count them, two numbers each; to move them, all eight, for which there are 64 registers.
constexpr int COUNTED = 8;
constexpr int MOVED = 4;
constexpr int NO_ROW = 0x7fffffff;

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

/// True in one thread for each lane in the warp, the first that has it; `peers` are the threads with this one's lane. Every thread calls; -1 is none.
__device__ bool leads(int lane, unsigned& peers) {
  peers = __match_any_sync(WHOLE_WARP, lane);
  return lane >= 0 && static_cast<int>(threadIdx.x % 32) == __ffs(peers) - 1;
}

/// Rows of each lane that do not halt, and where the first of them stands if `firsts` is asked for. Rows of a lane lie side by side, so a warp adds
/// them up before it touches a counter.
__device__ void count_lanes(const Row* rows, const bool* halted, int count, int* counts, int* firsts) {
  for (int base = 0; base < count; base += COUNTED * THREADS) {
    int lane[COUNTED];
#pragma unroll
    for (int k = 0; k < COUNTED; k++) {
      const int i = base + k * THREADS + threadIdx.x, at = min(i, count - 1);
      const int slot = rows[at].slot, its_lane = rows[at].lane;
      const bool stops = halted != nullptr && halted[at];
      lane[k] = i < count && slot >= 0 && !stops ? its_lane : -1;
    }
#pragma unroll
    for (int k = 0; k < COUNTED; k++) {
      unsigned peers;
      if (!leads(lane[k], peers)) continue;
      atomicAdd(&counts[lane[k]], __popc(peers));
      if (firsts != nullptr) atomicMin(&firsts[lane[k]], base + k * THREADS + static_cast<int>(threadIdx.x));
    }
  }
}

/// Makes `sums` [MOVED * WARPS] exclusive prefix sums; returns the total. Every thread calls.
__device__ int sum_round(int* sums, int* total) {
  __syncthreads();
  if (threadIdx.x < 32) {
    int value[MOVED], own = 0;
#pragma unroll
    for (int k = 0; k < MOVED; k++) own += value[k] = sums[threadIdx.x * MOVED + k];
    int inclusive = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int below = __shfl_up_sync(WHOLE_WARP, inclusive, offset);
      if (static_cast<int>(threadIdx.x) >= offset) inclusive += below;
    }
    int before = inclusive - own;
#pragma unroll
    for (int k = 0; k < MOVED; k++) {
      sums[threadIdx.x * MOVED + k] = before;
      before += value[k];
    }
    if (threadIdx.x == 31) *total = inclusive;
  }
  __syncthreads();
  return *total;
}

__device__ void store_row(Row* to, int4 low, int4 high) {
  reinterpret_cast<int4*>(to)[0] = low;
  reinterpret_cast<int4*>(to)[1] = high;
}

__global__ void __launch_bounds__(THREADS) compact_rows_kernel(Compaction io) {
  __shared__ int counts[LANES_MAX];
  __shared__ int firsts[LANES_MAX];
  __shared__ int warp_sums[WARPS];
  __shared__ int round_sums[MOVED * WARPS];
  __shared__ int round_total;
  counts[threadIdx.x] = 0;
  firsts[threadIdx.x] = NO_ROW;
  __syncthreads();
  // What a lane keeps decides whether its halted rows are worth renewing, so it is counted first.
  count_lanes(io.active, io.halted, io.active_count, counts, nullptr);
  __syncthreads();
  const bool halts = io.halted != nullptr;
  const unsigned threads_before = (1u << (threadIdx.x % 32)) - 1;
  int kept = 0, renewed = 0;
  for (int base = 0; base < io.active_count; base += MOVED * THREADS) {
    int4 low[MOVED], high[MOVED];  // slot, cache_row, position, step; first, visible, lane, limits
    float threshold[MOVED];
    bool keeps[MOVED], renews[MOVED];
#pragma unroll
    for (int k = 0; k < MOVED; k++) {
      const int i = base + k * THREADS + threadIdx.x, at = min(i, io.active_count - 1);
      low[k] = reinterpret_cast<const int4*>(io.active + at)[0];
      high[k] = reinterpret_cast<const int4*>(io.active + at)[1];
      threshold[k] = io.threshold[at];
      renews[k] = halts && io.halted[at];
    }
#pragma unroll
    for (int k = 0; k < MOVED; k++) {
      const int i = base + k * THREADS + threadIdx.x;
      const bool real = i < io.active_count && low[k].x >= 0, stops = real && renews[k];
      if (stops) {
        io.depths[low[k].x] = low[k].w;
        io.remainders[low[k].x] = io.remainder[i];
      }
      if (halts) low[k].w += 1;
      keeps[k] = real && !stops;
      renews[k] = stops && counts[high[k].z] > 0;
      // Both sums in one number: at most 4096 rows a round.
      const unsigned keep = __ballot_sync(WHOLE_WARP, keeps[k]), renew = __ballot_sync(WHOLE_WARP, renews[k]);
      if (threadIdx.x % 32 == 0) round_sums[k * WARPS + threadIdx.x / 32] = __popc(keep) | __popc(renew) << 16;
    }
    // Behind its barriers all rows of the round have been read; where they go lies at or before where they were.
    const int total = sum_round(round_sums, &round_total);
#pragma unroll
    for (int k = 0; k < MOVED; k++) {
      const int before = round_sums[k * WARPS + threadIdx.x / 32];
      const unsigned keep = __ballot_sync(WHOLE_WARP, keeps[k]), renew = __ballot_sync(WHOLE_WARP, renews[k]);
      const int kept_to = kept + (before & 0xffff) + __popc(keep & threads_before);
      const int renewed_to = renewed + (before >> 16) + __popc(renew & threads_before);
      unsigned peers;
      if (leads(keeps[k] ? high[k].z : -1, peers)) atomicMin(&firsts[high[k].z], kept_to);
      if (keeps[k]) {
        store_row(io.active + kept_to, low[k], high[k]);
        io.threshold[kept_to] = threshold[k];
      }
      if (renews[k] && renewed_to < io.renewed_capacity) store_row(io.renewed + renewed_to, low[k], high[k]);
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
  firsts[threadIdx.x] = NO_ROW;
  __syncthreads();
  count_lanes(active, nullptr, active_count, counts, firsts);
  __syncthreads();
  int active_rows;
  exclusive_sum(counts[threadIdx.x], warp_sums, active_rows);
  write_tiles(counts, firsts, warp_sums, active_rows, 0, tiles, tile_capacity, progress);
}

namespace cg = cooperative_groups;
constexpr int CLUSTER = 8;
// What is compiled for older devices is never launched there.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define IN_A_CLUSTER
#else
#define IN_A_CLUSTER __cluster_dims__(CLUSTER, 1, 1)
#endif

/// The same as compact_rows_kernel for at most CLUSTER * THREADS rows.
__global__ void IN_A_CLUSTER __launch_bounds__(THREADS) compact_rows_cluster_kernel(Compaction io) {
#if __CUDA_ARCH__ >= 900
  __shared__ int counts[LANES_MAX];
  __shared__ int firsts[LANES_MAX];
  __shared__ int warp_sums[WARPS];
  __shared__ int block_total;
  const auto cluster = cg::this_cluster();
  const int rank = cluster.block_rank();
  int* const all_counts = cluster.map_shared_rank(counts, 0);
  int* const all_firsts = cluster.map_shared_rank(firsts, 0);
  counts[threadIdx.x] = 0;
  firsts[threadIdx.x] = NO_ROW;
  const int i = rank * THREADS + threadIdx.x;
  int4 low = {-1, 0, 0, 0}, high = {};  // slot, cache_row, position, step; first, visible, lane, limits
  float threshold = 1, remainder = 0;
  bool stops = false;
  if (i < io.active_count) {
    low = reinterpret_cast<const int4*>(io.active + i)[0];
    high = reinterpret_cast<const int4*>(io.active + i)[1];
    threshold = io.threshold[i];
    stops = io.halted[i];
    remainder = io.remainder[i];
  }
  const bool keeps = low.x >= 0 && !stops;
  stops = low.x >= 0 && stops;
  unsigned peers;
  const bool leader = leads(keeps ? high.z : -1, peers);
  cluster.sync();
  if (leader) atomicAdd(&all_counts[high.z], __popc(peers));
  if (stops) {
    io.depths[low.x] = low.w;
    io.remainders[low.x] = remainder;
  }
  low.w += 1;
  // All rows have been read, and what each lane keeps is counted.
  cluster.sync();
  const bool renews = stops && all_counts[high.z] > 0;
  int total;
  const int place = exclusive_sum((keeps ? 1 : 0) | (renews ? 1 << 16 : 0), warp_sums, total);
  if (threadIdx.x == 0) block_total = total;
  cluster.sync();
  int kept_before = 0, renewed_before = 0, kept = 0, renewed = 0;
  for (int block = 0; block < CLUSTER; block++) {
    const int sum = *cluster.map_shared_rank(&block_total, block);
    if (block < rank) {
      kept_before += sum & 0xffff;
      renewed_before += sum >> 16;
    }
    kept += sum & 0xffff;
    renewed += sum >> 16;
  }
  const int kept_to = kept_before + (place & 0xffff), renewed_to = renewed_before + (place >> 16);
  if (leader) atomicMin(&all_firsts[high.z], kept_to);
  if (keeps) {
    store_row(io.active + kept_to, low, high);
    io.threshold[kept_to] = threshold;
  }
  if (renews && renewed_to < io.renewed_capacity) store_row(io.renewed + renewed_to, low, high);
  if (i >= kept && i < io.active_count) {
    io.active[i] = padding();
    io.threshold[i] = 1.0f;
  }
  for (int at = renewed + i; at < io.renewed_count; at += CLUSTER * THREADS) io.renewed[at] = padding();
  // Nobody leaves while others read its memory.
  cluster.sync();
  if (rank == 0) write_tiles(counts, firsts, warp_sums, kept, renewed, io.tiles, io.tile_capacity, io.progress);
#endif
}

/// Clusters came with compute capability 9.0.
bool has_clusters() {
  static const bool has = [] {
    int device = 0, major = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major >= 9;
  }();
  return has;
}

}  // namespace

static_assert(LANES_MAX == THREADS, "a thread a lane");

void compact_rows(const Compaction& io, cudaStream_t stream) {
  if (io.halted != nullptr && io.active_count <= CLUSTER * THREADS && has_clusters()) {
    compact_rows_cluster_kernel<<<CLUSTER, THREADS, 0, stream>>>(io);
  } else {
    compact_rows_kernel<<<1, THREADS, 0, stream>>>(io);
  }
}

void tile_rows(const Row* active, int active_count, Tile* tiles, int tile_capacity, int32_t* progress, cudaStream_t stream) {
  tile_rows_kernel<<<1, THREADS, 0, stream>>>(active, active_count, tiles, tile_capacity, progress);
}

}  // namespace ponder

// The output layer's tiles on Hopper (compute capability 9.0), whose tensor cores reach half of their rate with the instructions of `logits.cu`.
// Compiled for sm_90a alone: wgmma is in no other architecture, not even a later one.
//
// A block works off tiles of 128 rows x WORDS, one after another. One warp fetches (TMA), chunk by chunk into a ring of stages, across tiles without a
// pause; two groups of four warps, the consumers, multiply 64 rows each with all words of the tile and then make groups of the logits in their registers.
//
//   full[stage]    the stage's chunk has arrived (its bytes are counted)           fetching warp -> both consumers
//   empty[stage]   all eight warps of the consumers are done with the chunk        consumers -> fetching warp
//
// The second consumer begins LEAD chunks after the first, and stays behind: while one makes groups, the other has the tensor cores for itself.
//
// A group of 64 words is one warp's, and lies in it as in `logits.cu`, whatever WORDS is; products run over d in the same order. So a row's numbers do not
// depend on the row count. They are not those of `logits.cu` to the bit: this path is taken for all row counts or for none.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "mma.h"

namespace ponder {
namespace {

constexpr int TILE_OF_ROWS = 128;
/// Numbers of d in a stage: 128 bytes of a row, the width over which the hardware swizzles.
constexpr int CHUNK = 64;
constexpr int K_OF_PRODUCT = 16;
constexpr int CONSUMERS = 2, CONSUMER_ROWS = 64, CONSUMER_THREADS = 128;
constexpr int THREADS = CONSUMERS * CONSUMER_THREADS + 32;
constexpr int LEAD = 2;
/// Swizzled tiles begin at multiples of eight rows of 128 bytes.
constexpr int ALIGNMENT = 1024;

template <int WORDS>
struct Stages {
  static constexpr int count = WORDS == 256 ? 4 : 6;
  static constexpr int of_x = TILE_OF_ROWS * CHUNK * static_cast<int>(sizeof(__half));
  static constexpr int of_w = WORDS * CHUNK * static_cast<int>(sizeof(__half));
  static constexpr int stage = of_x + of_w;
  static constexpr int bytes = count * stage + ALIGNMENT;
  static_assert(of_x % ALIGNMENT == 0 && of_w % ALIGNMENT == 0 && LEAD <= count);
};

__device__ unsigned address_of(const void* shared) { return static_cast<unsigned>(__cvta_generic_to_shared(shared)); }

__device__ void make_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(address_of(barrier)), "r"(arrivals) : "memory");
}
__device__ void arrive(uint64_t* barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(address_of(barrier)) : "memory"); }
__device__ void arrive_expecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(address_of(barrier)), "r"(bytes) : "memory");
}
/// Waits for the end of the barrier's phase of this parity. What never comes is an error of this file: better a failed launch than one that hangs.
__device__ void await_phase(uint64_t* barrier, int parity) {
#pragma unroll 1
  for (int tries = 0; tries < 1 << 24; tries++) {
    int done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(address_of(barrier)), "r"(parity)
        : "memory");
    if (done) return;
  }
  __trap();
}

/// Copies the box at (k, row) of a matrix to `to`; `barrier` counts its bytes. What lies beyond the matrix becomes 0 and is counted too.
__device__ void fetch_box(unsigned to, const CUtensorMap& matrix, int k, int row, uint64_t* barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];\n" ::"r"(to), "l"(&matrix),
               "r"(k), "r"(row), "r"(address_of(barrier))
               : "memory");
}

/// Barriers among consumers, by number; 0 is __syncthreads'.
__device__ void meet(int barrier, int threads) { asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory"); }
__device__ void let_go(int barrier, int threads) { asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory"); }

/// A tile of shared memory as wgmma reads it: rows of 128 bytes that run along k, swizzled, eight of them (1024 bytes) to the next eight.
__device__ uint64_t tile_at(unsigned address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

__device__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int LEFT>
__device__ void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(LEFT) : "memory");
}

/// From here on the products are there: nothing that reads them is moved before it.
template <int COUNT>
__device__ void settle(float (&c)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(c[i])::"memory");
}

#define TEN(tens) \
  "%" #tens "0, %" #tens "1, %" #tens "2, %" #tens "3, %" #tens "4, %" #tens "5, %" #tens "6, %" #tens "7, %" #tens "8, %" #tens "9, "
#define EIGHT_OF(c, i) \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define ALL_OF_32(c, i) EIGHT_OF(c, i), EIGHT_OF(c, i + 8), EIGHT_OF(c, i + 16), EIGHT_OF(c, i + 24)

/// c = a b^T + c, or without c where `adds` is 0: a [64, 16], b [words, 16]. Thread t of the consumer has of c's row t / 32 * 16 + t % 32 / 4 + 8 half
/// the columns 8 n + t % 4 * 2 + j at c[n * 4 + half * 2 + j]. Asynchronous: c is not to be touched until await_products.
__device__ void multiply_tiles(float (&c)[32], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" TEN() TEN(1) TEN(2)
      "%30, %31}, %32, %33, p, 1, 1, 0, 0;\n}\n"
      : ALL_OF_32(c, 0)
      : "l"(a), "l"(b), "r"(adds));
}
__device__ void multiply_tiles(float (&c)[64], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5)
      "%60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;\n}\n"
      : ALL_OF_32(c, 0), ALL_OF_32(c, 32)
      : "l"(a), "l"(b), "r"(adds));
}
__device__ void multiply_tiles(float (&c)[128], uint64_t a, uint64_t b, int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5)
      TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, p, 1, 1, 0, 0;\n}\n"
      : ALL_OF_32(c, 0), ALL_OF_32(c, 32), ALL_OF_32(c, 64), ALL_OF_32(c, 96)
      : "l"(a), "l"(b), "r"(adds));
}

__device__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// A row's 16 logits of a group in this thread, v[n * 4 + j] the word n * 8 + column * 2 + j of the group.
struct GroupOfRow {
  float peak, sum;
  int word;
};
__device__ GroupOfRow group_of(const float* v, int column) {
  float peak = -INFINITY;
#pragma unroll
  for (int n = 0; n < 8; n++) peak = fmaxf(peak, fmaxf(v[n * 4], v[n * 4 + 1]));
  peak = max_over_quad(peak);
  // Nothing but numbers that are none: they reach the sum, and with it the result.
  const float base = peak == -INFINITY ? 0.0f : peak;
  float sum = 0;
  int word = LOGIT_GROUP;
#pragma unroll
  for (int n = 7; n >= 0; n--) {
#pragma unroll
    for (int j = 1; j >= 0; j--) {
      sum += power_of_two((v[n * 4 + j] - base) * LOG2E);
      // The lowest comes last.
      if (v[n * 4 + j] == peak) word = n * 8 + j;
    }
  }
  word += column * 2;
  word = min(word, __shfl_xor_sync(0xffffffffu, word, 1));
  word = min(word, __shfl_xor_sync(0xffffffffu, word, 2));
  return {peak, sum_over_quad(sum), word};
}

template <int WORDS>
__global__ void __launch_bounds__(THREADS, 1)
    wgmma_groups_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w, const float* scale, int rows, int vocabulary,
                        int d, float* peaks, float* sums, int32_t* ids) {
  using Ring = Stages<WORDS>;
  extern __shared__ __align__(ALIGNMENT) unsigned char memory[];
  __shared__ __align__(8) uint64_t full[Ring::count], empty[Ring::count];
  // Of the tile in work and of the one before, which a slower warp may still read.
  __shared__ __align__(8) float scales[CONSUMERS][2][WORDS];
  const unsigned stages = (address_of(memory) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  const int row_tiles = (rows + TILE_OF_ROWS - 1) / TILE_OF_ROWS, tiles = row_tiles * ((vocabulary + WORDS - 1) / WORDS);
  const int chunks = d / CHUNK;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Ring::count; stage++) make_barrier(&full[stage], 1), make_barrier(&empty[stage], CONSUMERS * CONSUMER_THREADS / 32);
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;\n" ::: "memory");
  }
  __syncthreads();

  // Chunks are counted over all tiles: chunk `step` lies in stage step % count, and the parity of its round is the phase to wait for.
  int step = 0;
  if (warp == CONSUMERS * CONSUMER_THREADS / 32) {
    if (lane != 0) return;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      for (int chunk = 0; chunk < chunks; chunk++, step++) {
        const int stage = step % Ring::count;
        // In the first round there is nothing to wait for: the phase before a barrier's first counts as ended.
        await_phase(&empty[stage], step / Ring::count % 2 ^ 1);
        arrive_expecting(&full[stage], Ring::stage);
        fetch_box(stages + stage * Ring::stage, x, chunk * CHUNK, tile % row_tiles * TILE_OF_ROWS, &full[stage]);
        fetch_box(stages + stage * Ring::stage + Ring::of_x, w, chunk * CHUNK, tile / row_tiles * WORDS, &full[stage]);
      }
    }
    return;
  }

  const int consumer = warp / 4, thread = threadIdx.x % CONSUMER_THREADS, quad = lane / 4, column = lane % 4;
  const int lead = min(LEAD, chunks);
  constexpr int ALL_CONSUMERS = CONSUMERS + 1, SCALES = (WORDS + CONSUMER_THREADS - 1) / CONSUMER_THREADS;
  if (consumer == 1) meet(ALL_CONSUMERS, CONSUMERS * CONSUMER_THREADS);
  float logit[WORDS / 2];
  auto multiply_chunk = [&](bool first) {
    const int stage = step % Ring::count;
    await_phase(&full[stage], step / Ring::count % 2);
    __syncwarp();
    const unsigned at = stages + stage * Ring::stage;
    const uint64_t a = tile_at(at + consumer * CONSUMER_ROWS * CHUNK * 2), b = tile_at(at + Ring::of_x);
    begin_products();
    // 16 numbers are 32 bytes; addresses count in units of 16.
#pragma unroll
    for (int k = 0; k < CHUNK / K_OF_PRODUCT; k++) multiply_tiles(logit, a + k * 2, b + k * 2, first && k == 0 ? 0 : 1);
    end_products();
    if (++step == lead && consumer == 0) let_go(ALL_CONSUMERS, CONSUMERS * CONSUMER_THREADS);
  };
  auto release = [&](int of_step) {
    if (lane == 0) arrive(&empty[of_step % Ring::count]);
  };

  for (int tile = blockIdx.x, turn = 0; tile < tiles; tile += gridDim.x, turn ^= 1) {
    const int first_row = tile % row_tiles * TILE_OF_ROWS + consumer * CONSUMER_ROWS, first_word = tile / row_tiles * WORDS;
    // Asked for now, needed after the product.
    float factor[SCALES];
#pragma unroll
    for (int i = 0; i < SCALES; i++) {
      const int n = i * CONSUMER_THREADS + thread;
      factor[i] = n < WORDS && first_word + n < vocabulary ? scale[first_word + n] : 0.0f;
    }
    multiply_chunk(true);
#pragma unroll 1
    for (int chunk = 1; chunk < chunks; chunk++) {
      multiply_chunk(false);
      await_products<1>();
      release(step - 2);
    }
#pragma unroll
    for (int i = 0; i < SCALES; i++) {
      const int n = i * CONSUMER_THREADS + thread;
      if (n < WORDS) scales[consumer][turn][n] = factor[i];
    }
    await_products<0>();
    settle(logit);
    release(step - 1);
    meet(1 + consumer, CONSUMER_THREADS);

    const float* of_words = scales[consumer][turn];
    const int row_of_thread = first_row + thread / 32 * 16 + quad;
#pragma unroll
    for (int group = 0; group < WORDS / LOGIT_GROUP; group++) {
      float* v = logit + group * 32;
      const int first = first_word + group * LOGIT_GROUP;
      if (first >= vocabulary) break;
#pragma unroll
      for (int n = 0; n < 8; n++) {
        const float2 f = *reinterpret_cast<const float2*>(of_words + group * LOGIT_GROUP + n * 8 + column * 2);
#pragma unroll
        for (int i = 0; i < 4; i++) v[n * 4 + i] = __fmul_rn(v[n * 4 + i], i % 2 == 0 ? f.x : f.y);
      }
      if (first + LOGIT_GROUP > vocabulary) {
#pragma unroll
        for (int i = 0; i < 32; i++) {
          if (first + i / 4 * 8 + column * 2 + i % 2 >= vocabulary) v[i] = -INFINITY;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const GroupOfRow found = group_of(v + half * 2, column);
        const int row = row_of_thread + half * 8;
        if (column != 0 || row >= rows) continue;
        const size_t at = static_cast<size_t>(first / LOGIT_GROUP) * rows + row;
        peaks[at] = found.peak;
        sums[at] = found.sum;
        ids[at] = first + found.word;
      }
    }
  }
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// The driver's function that describes a matrix to the hardware that copies boxes of it; null where the driver has none.
PFN_cuTensorMapEncodeTiled_v12000 describe() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function) : nullptr;
  }();
  return found;
}

/// A matrix [rows, d] that is read in boxes of `box` rows and CHUNK numbers of d, swizzled over 128 bytes.
CUtensorMap matrix_of(const __half* data, int rows, int d, int box) {
  CUtensorMap map;
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(d), static_cast<cuuint64_t>(rows)};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(d) * sizeof(__half)};
  const cuuint32_t boxes[] = {CHUNK, static_cast<cuuint32_t>(box)}, apart[] = {1, 1};
  const CUresult result = describe()(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<__half*>(data), extents, row_bytes, boxes, apart,
                                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) throw std::runtime_error("cuTensorMapEncodeTiled: CUDA error " + std::to_string(result));
  return map;
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

int tiles_of(const LogitGroups& io, int words) { return (io.rows + TILE_OF_ROWS - 1) / TILE_OF_ROWS * ((io.vocabulary + words - 1) / words); }

template <int WORDS>
void launch(const LogitGroups& io, int processors, cudaStream_t stream) {
  const CUtensorMap x = matrix_of(io.x, io.rows, io.d, TILE_OF_ROWS), w = matrix_of(io.w, io.vocabulary, io.d, WORDS);
  constexpr int bytes = Stages<WORDS>::bytes;
  check(cudaFuncSetAttribute(wgmma_groups_kernel<WORDS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
  wgmma_groups_kernel<WORDS><<<std::min(tiles_of(io, WORDS), processors), THREADS, bytes, stream>>>(
      x, w, io.scale, io.rows, io.vocabulary, io.d, io.peaks, io.sums, io.ids);
}

}  // namespace

bool hopper_has(const LogitGroups& io) {
  return io.d % CHUNK == 0 && attribute(cudaDevAttrComputeCapabilityMajor) == 9 && attribute(cudaDevAttrComputeCapabilityMinor) == 0 &&
         describe() != nullptr;
}

void hopper_logit_groups(const LogitGroups& io, int words, cudaStream_t stream) {
  if (io.rows == 0) return;
  const int processors = attribute(cudaDevAttrMultiProcessorCount);
  // The fewest words with which all tiles are in work at once; beyond, the largest tiles read least.
  if (words == 0) words = tiles_of(io, 64) <= processors ? 64 : tiles_of(io, 128) <= processors ? 128 : 256;
  switch (words) {
    case 64: return launch<64>(io, processors, stream);
    case 128: return launch<128>(io, processors, stream);
    default: return launch<256>(io, processors, stream);
  }
}

}  // namespace ponder

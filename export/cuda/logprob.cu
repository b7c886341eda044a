// Log-probabilities of rows of logits, in float32: a block a row.
#include "kernels.h"

namespace ponder {
namespace {

constexpr int THREADS = 256;

struct Peak {
  float value;
  int32_t id;
};

/// Larger value first, of equal ones the lower id.
__device__ bool before(Peak a, Peak b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

template <typename T, typename F>
__device__ T reduce_block(T value, T* shared, F combine) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    T other;
    if constexpr (sizeof(T) == 8) {
      other.value = __shfl_xor_sync(0xffffffffu, value.value, offset);
      other.id = __shfl_xor_sync(0xffffffffu, value.id, offset);
    } else {
      other = __shfl_xor_sync(0xffffffffu, value, offset);
    }
    value = combine(value, other);
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  T result = shared[0];
  for (int i = 1; i < THREADS / 32; i++) result = combine(result, shared[i]);
  __syncthreads();
  return result;
}

/// log(sum(exp(row))) in one pass: each thread keeps its largest value and the sum relative to it (Milakov and Gimelshein 2018, arXiv 1805.02867).
__device__ float log_sum(const float* row, const float* scale, int vocabulary) {
  __shared__ float shared[THREADS / 32];
  float peak = -INFINITY, total = 0;
  for (int i = threadIdx.x * 4; i < vocabulary; i += THREADS * 4) {
    const float4 product = *reinterpret_cast<const float4*>(row + i), s = *reinterpret_cast<const float4*>(scale + i);
    const float4 v = make_float4(product.x * s.x, product.y * s.y, product.z * s.z, product.w * s.w);
    const float next = fmaxf(peak, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
    total = total * expf(peak - next) + (expf(v.x - next) + expf(v.y - next)) + (expf(v.z - next) + expf(v.w - next));
    peak = next;
  }
  const float highest = reduce_block(peak, shared, [](float a, float b) { return fmaxf(a, b); });
  // A thread without a value has nothing to add, and no peak to take a difference from.
  const float share = peak == -INFINITY ? 0.0f : total * expf(peak - highest);
  return highest + logf(reduce_block(share, shared, [](float a, float b) { return a + b; }));
}

__global__ void target_logprob_kernel(const float* products, const float* scale, const int32_t* targets, int vocabulary, float* logprob) {
  const float* row = products + static_cast<size_t>(blockIdx.x) * vocabulary;
  // Asked for first: the list may lie in the host's memory.
  const int target = threadIdx.x == 0 ? max(targets[blockIdx.x], 0) : 0;
  const float total = log_sum(row, scale, vocabulary);
  if (threadIdx.x == 0) logprob[blockIdx.x] = row[target] * scale[target] - total;
}

__global__ void top_logprobs_kernel(const float* products, const float* scale, int vocabulary, int k, float* best, int32_t* ids) {
  __shared__ Peak shared[THREADS / 32];
  const float* row = products + static_cast<size_t>(blockIdx.x) * vocabulary;
  const float total = log_sum(row, scale, vocabulary);
  Peak last = {INFINITY, -1};
  for (int n = 0; n < k; n++) {
    Peak found = {-INFINITY, 0x7fffffff};
    for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
      const Peak candidate = {row[i] * scale[i], i};
      if (before(last, candidate) && before(candidate, found)) found = candidate;
    }
    last = reduce_block(found, shared, [](Peak a, Peak b) { return before(a, b) ? a : b; });
    if (threadIdx.x == 0) {
      best[static_cast<size_t>(blockIdx.x) * k + n] = last.value - total;
      ids[static_cast<size_t>(blockIdx.x) * k + n] = last.id < vocabulary ? last.id : 0;
    }
  }
}

}  // namespace

void target_logprob(const float* products, const float* scale, const int32_t* targets, int rows, int vocabulary, float* logprob, cudaStream_t stream) {
  if (rows > 0) target_logprob_kernel<<<rows, THREADS, 0, stream>>>(products, scale, targets, vocabulary, logprob);
}

void top_logprobs(const float* products, const float* scale, int rows, int vocabulary, int k, float* best, int32_t* ids, cudaStream_t stream) {
  if (rows > 0) top_logprobs_kernel<<<rows, THREADS, 0, stream>>>(products, scale, vocabulary, k, best, ids);
}

}  // namespace ponder

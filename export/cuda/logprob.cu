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

/// log(sum(exp(row)))
__device__ float log_sum(const float* row, int vocabulary) {
  __shared__ float shared[THREADS / 32];
  float peak = -INFINITY;
  for (int i = threadIdx.x * 4; i < vocabulary; i += THREADS * 4) {
    const float4 v = *reinterpret_cast<const float4*>(row + i);
    peak = fmaxf(peak, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
  }
  peak = reduce_block(peak, shared, [](float a, float b) { return fmaxf(a, b); });
  float total = 0;
  for (int i = threadIdx.x * 4; i < vocabulary; i += THREADS * 4) {
    const float4 v = *reinterpret_cast<const float4*>(row + i);
    total += (expf(v.x - peak) + expf(v.y - peak)) + (expf(v.z - peak) + expf(v.w - peak));
  }
  return peak + logf(reduce_block(total, shared, [](float a, float b) { return a + b; }));
}

__global__ void target_logprob_kernel(const float* logits, const int32_t* targets, int vocabulary, float* logprob) {
  const float* row = logits + static_cast<size_t>(blockIdx.x) * vocabulary;
  const float total = log_sum(row, vocabulary);
  if (threadIdx.x == 0) logprob[blockIdx.x] = row[max(targets[blockIdx.x], 0)] - total;
}

__global__ void top_logprobs_kernel(const float* logits, int vocabulary, int k, float* best, int32_t* ids) {
  __shared__ Peak shared[THREADS / 32];
  const float* row = logits + static_cast<size_t>(blockIdx.x) * vocabulary;
  const float total = log_sum(row, vocabulary);
  Peak last = {INFINITY, -1};
  for (int n = 0; n < k; n++) {
    Peak found = {-INFINITY, 0x7fffffff};
    for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
      const Peak candidate = {row[i], i};
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

void target_logprob(const float* logits, const int32_t* targets, int rows, int vocabulary, float* logprob, cudaStream_t stream) {
  if (rows > 0) target_logprob_kernel<<<rows, THREADS, 0, stream>>>(logits, targets, vocabulary, logprob);
}

void top_logprobs(const float* logits, int rows, int vocabulary, int k, float* best, int32_t* ids, cudaStream_t stream) {
  if (rows > 0) top_logprobs_kernel<<<rows, THREADS, 0, stream>>>(logits, vocabulary, k, best, ids);
}

}  // namespace ponder

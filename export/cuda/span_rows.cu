// What lies around attention over learnt spans (span.cu), row by row: keys and values into their pools, residuals, bias and ReLU.
#include "span.h"

namespace ponder {
namespace {

constexpr unsigned ALL = 0xffffffffu;

/// A block a row.
__global__ void write_spans_kernel(const __grid_constant__ SpanAttention io, const float* from, int d, int stride) {
  const int row = blockIdx.x, unit = row / io.m, own = row % io.m;
  from += static_cast<int64_t>(row) * stride;
  for (int g = 0, first = 0; g < io.group_count; g++) {
    const SpanGroup& group = io.groups[g];
    const int columns = group.heads * io.d_head;
    const int64_t to = group.window[static_cast<int64_t>(unit) * (group.s + io.m) + group.s + own] * static_cast<int64_t>(columns);
    for (int j = threadIdx.x; j < columns; j += blockDim.x) {
      group.keys[to + j] = from[first + j];
      group.values[to + j] = from[d + first + j];
    }
    first += columns;
  }
}

__device__ float sum_over_warp(float x) {
#pragma unroll
  for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(ALL, x, other);
  return x;
}

/// A warp a row.
__global__ void add_normalise_kernel(const float* x, const float* y, const float* bias, const float* gain, const float* shift, int rows, int d,
                                     float epsilon, float* out) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const int64_t start = static_cast<int64_t>(row) * d;
  auto at = [&](int j) { return x[start + j] + (y[start + j] + bias[j]); };
  float sum = 0;
  for (int j = lane; j < d; j += 32) sum += at(j);
  const float mean = sum_over_warp(sum) / d;
  float squares = 0;
  for (int j = lane; j < d; j += 32) squares = fmaf(at(j) - mean, at(j) - mean, squares);
  const float inverse = 1.0f / sqrtf(sum_over_warp(squares) / d + epsilon);
  // Each number is read for the last time by the lane that writes it, so `out` may be x or y.
  for (int j = lane; j < d; j += 32) out[start + j] = (at(j) - mean) * inverse * gain[j] + shift[j];
}

/// A block a row.
__global__ void add_relu_kernel(const float* x, const float* bias, int n, float* y) {
  const int64_t start = static_cast<int64_t>(blockIdx.x) * n;
  for (int j = threadIdx.x; j < n; j += blockDim.x) {
    // Written so that what is no number stays none.
    const float sum = x[start + j] + bias[j];
    y[start + j] = sum < 0 ? 0.0f : sum;
  }
}

}  // namespace

void write_spans(const SpanAttention& io, const float* from, int d, int stride, cudaStream_t stream) {
  if (io.u * io.m == 0) return;
  write_spans_kernel<<<io.u * io.m, 128, 0, stream>>>(io, from, d, stride);
}

void add_normalise(const float* x, const float* y, const float* bias, const float* gain, const float* shift, int rows, int d, float epsilon,
                   float* out, cudaStream_t stream) {
  if (rows == 0) return;
  add_normalise_kernel<<<(rows + 7) / 8, 256, 0, stream>>>(x, y, bias, gain, shift, rows, d, epsilon, out);
}

void add_relu(const float* x, const float* bias, int rows, int n, float* y, cudaStream_t stream) {
  if (rows == 0 || n == 0) return;
  add_relu_kernel<<<rows, 256, 0, stream>>>(x, bias, n, y);
}

}  // namespace ponder

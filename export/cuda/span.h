// Attention over learnt spans and what lies around it (export/adaptive_span_onnx.py), in float32. As in kernels.h nothing allocates or waits.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace ponder {

constexpr int SPAN_GROUPS_MAX = 32;
/// What a bias stands for that hides a key; the functions write -1e30.
constexpr float SPAN_HIDDEN = -1e29f;

/// Heads that share pools. Query i of a unit sees the keys window[i] ... window[i + s - 1], oldest first.
struct SpanGroup {
  /// Of head 0 and query 0 of unit 0.
  const float* q;
  /// Pools [rows, heads * d_head].
  float *keys, *values;
  /// Rows of the pools, [u, s + m].
  const int32_t* window;
  /// Of the oldest key that a query sees; [d_head] of rows `pe_stride` apart.
  const float* pe;
  /// Added to the scores, [.., .., .., s]; null: ln of the mask of `z`.
  const float* bias;
  /// Keys that a head sees in full; of head 0.
  const float* z;
  float* out;
  int heads, s;
  /// Set by span_attention: parts that its keys are cut into, the chunks of each, and where their sums lie.
  int segments, segment_chunks;
  float* partial;
};

/// Groups of one launch. Strides count floats; 0: one for all.
struct SpanAttention {
  SpanGroup groups[SPAN_GROUPS_MAX];
  int group_count;
  int u, m, d_head;
  int64_t q_unit, q_head, q_row;
  int64_t bias_unit, bias_head, bias_row;
  /// From query to query.
  int64_t z_row;
  int64_t pe_stride, out_row;
  /// A unit's limit on z, and the keys over which the mask falls to 0.
  const float* cap;
  float ramp;
  /// Of `span_scratch` numbers; null: keys are not cut, and a long span takes as long as one block for it.
  float* scratch;
};
size_t span_scratch(const SpanAttention& io);
void span_attention(const SpanAttention& io, cudaStream_t stream);

/// keys, values[window[s + i]] = the two parts of row i of a unit, for all groups: keys of all heads from `from`, values `d` after them, rows
/// `stride` apart, heads in the order of the groups.
void write_spans(const SpanAttention& io, const float* from, int d, int stride, cudaStream_t stream);

/// out = gain * LN(x + (y + bias)) + shift
void add_normalise(const float* x, const float* y, const float* bias, const float* gain, const float* shift, int rows, int d, float epsilon,
                   float* out, cudaStream_t stream);

/// y = max(x + bias, 0)
void add_relu(const float* x, const float* bias, int rows, int n, float* y, cudaStream_t stream);

}  // namespace ponder

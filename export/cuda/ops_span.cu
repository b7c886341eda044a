// The operators of models with attention spans (span.cu, span_rows.cu), in float32.
#include "ops.h"
#include "span.h"

namespace ponder::ops {
namespace {

/// The row strides of a bias [u or 1, h or 1, m or 1, s] that is read as [u, h, m, s].
void stride_bias(const std::vector<int64_t>& dims, ponder::SpanAttention& io) {
  io.bias_row = dims[2] == 1 ? 0 : dims[3];
  io.bias_head = dims[1] == 1 ? 0 : dims[2] * dims[3];
  io.bias_unit = dims[0] == 1 ? 0 : dims[1] * dims[2] * dims[3];
}

void attend(ponder::SpanAttention& io, Call& c) {
  c.with_scratch(ponder::span_scratch(io), [&](float* scratch) {
    io.scratch = scratch;
    ponder::span_attention(io, c.stream());
  });
}

/// q, k, v, window, head, pe, bias -> o
void span_attention(Call& c) {
  const auto q = c.dims(0);
  const int u = static_cast<int>(q[0]), h = static_cast<int>(q[1]), m = static_cast<int>(q[2]), d_head = static_cast<int>(q[3]);
  ponder::SpanAttention io{};
  io.group_count = 1;
  io.u = u;
  io.m = m;
  io.d_head = d_head;
  io.q_row = d_head;
  io.q_head = static_cast<int64_t>(m) * d_head;
  io.q_unit = h * io.q_head;
  io.out_row = static_cast<int64_t>(h) * d_head;
  ponder::SpanGroup& group = io.groups[0];
  group.heads = h;
  group.s = c.dim(5, 1);
  require(c.dim(1, 1) == h * d_head, "SpanAttention: the pools are not as wide as the heads");
  require(c.dim(3, 1) == group.s + m, "SpanAttention: the window is not as long as the positions and the queries");
  io.pe_stride = group.s;
  stride_bias(c.dims(6), io);
  group.q = c.in<float>(0);
  group.keys = const_cast<float*>(c.in<float>(1));
  group.values = const_cast<float*>(c.in<float>(2));
  group.window = c.in<int32_t>(3);
  group.pe = c.in<float>(5);
  group.bias = c.in<float>(6);
  group.out = c.out<float>(0, {u, m, io.out_row});
  attend(io, c);
}

/// Numbers of heads of the groups of a layer, narrow to wide.
using Heads = std::vector<int64_t>;

/// Heads, window and strides of the groups of a layer, whose queries, keys and values are rows [r, 3 d]. `window(g)`: input of group g.
ponder::SpanAttention layer_of(const Heads& heads, Call& c, int units, const std::function<size_t(size_t)>& window) {
  const int64_t total = std::accumulate(heads.begin(), heads.end(), int64_t{0});
  const int rows = c.dim(0, 0), width = c.dim(0, 1);
  ponder::SpanAttention io{};
  io.group_count = static_cast<int>(heads.size());
  io.u = units;
  io.m = units == 0 ? 0 : rows / units;
  io.d_head = static_cast<int>(width / 3 / total);
  require(io.u * io.m == rows && total * io.d_head * 3 == width, "the rows of a layer do not divide into units and heads");
  for (size_t g = 0; g < heads.size(); g++) {
    io.groups[g].heads = static_cast<int>(heads[g]);
    io.groups[g].window = c.in<int32_t>(window(g));
    io.groups[g].s = c.dim(window(g), 1) - io.m;
  }
  return io;
}

/// qkv, then keys, values and window of each group -> keys and values of each.
Compute write_spans(Ort::ConstKernelInfo info) {
  const Heads heads = info.GetAttributes<int64_t>("heads");
  return [heads](Call& c) {
    ponder::SpanAttention io = layer_of(heads, c, c.dim(3, 0), [](size_t g) { return 3 + 3 * g; });
    for (size_t g = 0; g < heads.size(); g++) {
      io.groups[g].keys = c.in_place<float>(1 + 3 * g, 2 * g);
      io.groups[g].values = c.in_place<float>(2 + 3 * g, 2 * g + 1);
    }
    const int width = c.dim(0, 1);
    ponder::write_spans(io, c.in<float>(0) + width / 3, width / 3, width, c.stream());
  };
}

/// qkv, z, cap, pe, distance, then keys, values and window of each group -> o. The kernel needs no distances.
Compute span_heads(Ort::ConstKernelInfo info) {
  const Heads heads = info.GetAttributes<int64_t>("heads");
  const float ramp = info.GetAttribute<float>("ramp");
  return [heads, ramp](Call& c) {
    ponder::SpanAttention io = layer_of(heads, c, c.dim(2, 0), [](size_t g) { return 7 + 3 * g; });
    const int rows = c.dim(0, 0), width = c.dim(0, 1), positions = c.dim(3, 1);
    const auto z = c.dims(1);
    io.q_row = width;
    io.q_unit = static_cast<int64_t>(io.m) * width;
    io.q_head = io.d_head;
    io.z_row = z.size() == 1 ? 0 : z[1];
    io.pe_stride = positions;
    io.out_row = width / 3;
    io.cap = c.in<float>(2);
    io.ramp = ramp;
    auto* out = c.out<float>(0, {rows, width / 3});
    int64_t first = 0;
    for (size_t g = 0; g < heads.size(); first += heads[g++]) {
      ponder::SpanGroup& group = io.groups[g];
      require(group.s >= 0 && group.s <= positions, "SpanHeads: a window is longer than there are positions");
      group.q = c.in<float>(0) + first * io.d_head;
      group.keys = const_cast<float*>(c.in<float>(5 + 3 * g));
      group.values = const_cast<float*>(c.in<float>(6 + 3 * g));
      group.pe = c.in<float>(3) + positions - group.s;
      group.z = c.in<float>(1) + first;
      group.out = out + first * io.d_head;
    }
    attend(io, c);
  };
}

Compute add_normalise(Ort::ConstKernelInfo info) {
  const float epsilon = info.GetAttribute<float>("epsilon");
  return [epsilon](Call& c) {
    const int rows = c.dim(0, 0), d = c.dim(0, 1);
    auto* out = c.out<float>(0, {rows, d});
    ponder::add_normalise(c.in<float>(0), c.in<float>(1), c.in<float>(2), c.in<float>(3), c.in<float>(4), rows, d, epsilon, out, c.stream());
  };
}

void add_relu(Call& c) {
  const int rows = c.dim(0, 0), n = c.dim(0, 1);
  ponder::add_relu(c.in<float>(0), c.in<float>(1), rows, n, c.out<float>(0, {rows, n}), c.stream());
}

}  // namespace

/// An operator has as many inputs as its layer has groups, and its name says how many those are.
void add_span_operators(std::vector<Op*>& all) {
  all.push_back(new Op("SpanAttention", {F32, F32, F32, I32, I32, F32, F32}, {F32}, stateless(span_attention)));
  all.push_back(new Op("AddNormalize", {F32, F32, F32, F32, F32}, {F32}, add_normalise));
  all.push_back(new Op("AddRelu", {F32, F32}, {F32}, stateless(add_relu)));
  static std::vector<std::string> names;
  names.reserve(2 * ponder::SPAN_GROUPS_MAX);
  Types write = {F32}, heads = {F32, F32, F32, F32, F32}, pools;
  for (int groups = 1; groups <= ponder::SPAN_GROUPS_MAX; groups++) {
    for (Types* types : {&write, &heads}) types->insert(types->end(), {F32, F32, I32});
    pools.insert(pools.end(), {F32, F32});
    all.push_back(new Op(names.emplace_back("WriteSpans" + std::to_string(groups)).c_str(), write, pools, write_spans));
    all.push_back(new Op(names.emplace_back("SpanHeads" + std::to_string(groups)).c_str(), heads, {F32}, span_heads));
  }
}

}  // namespace ponder::ops

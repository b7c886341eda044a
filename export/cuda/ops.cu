// The operators of `ai.adaptive` as ONNX Runtime custom operators for its CUDA provider. A session that registers this library uses them in place of
// the model-local functions of the same names (export/cuda_functions.py), which stay their definition.
//
// Pools are bound as input and output of one run; where ONNX Runtime gives an output memory of its own, the pool is copied first.
#include "ops.h"

#include <memory>

#include "linear.h"

namespace ponder::ops {
namespace {

Compute start_rows(Ort::ConstKernelInfo info) {
  const float factor = info.GetAttribute<float>("factor");
  return [factor](Call& c) {
    const int d = c.dim(2, 1);
    require_width(d);
    auto* state = c.in_place<float>(4, 0);
    auto* accumulator = c.in_place<float>(5, 1);
    auto* halting = c.in_place<float>(6, 2);
    ponder::start_rows(c.in<Row>(0), c.in<int32_t>(1), c.dim(0, 0), c.in<int8_t>(2), c.in<float>(3), factor, d, c.dim(4, 0), state, accumulator,
                       halting, c.stream());
  };
}

/// pieces, thresholds, ids, embedding, scale, active, threshold, state, accumulator, halting
Compute start_lanes(Ort::ConstKernelInfo info) {
  const float factor = info.GetAttribute<float>("factor");
  return [factor](Call& c) {
    const int d = c.dim(3, 1);
    require_width(d);
    ponder::StartLanes io{};
    io.pieces = c.in<ponder::LanePiece>(0);
    io.thresholds = c.in<float>(1);
    io.count = c.dim(0, 0);
    io.ids = c.in<int32_t>(2);
    io.embedding = c.in<int8_t>(3);
    io.scale = c.in<float>(4);
    io.factor = factor;
    io.d = d;
    io.active = reinterpret_cast<Row*>(c.in_place<int32_t>(5, 0));
    io.threshold = c.in_place<float>(6, 1);
    io.state = c.in_place<float>(7, 2);
    io.accumulator = c.in_place<float>(8, 3);
    io.halting = c.in_place<float>(9, 4);
    ponder::start_lanes(io, c.stream());
  };
}

Compute adaptive_input(Ort::ConstKernelInfo info) {
  const float epsilon = info.GetAttribute<float>("epsilon");
  return [epsilon](Call& c) {
    const int d = c.dim(3, 1);
    require_width(d);
    const ponder::Rows rows = c.rows(0, 1);
    const int64_t active = rows.active_count, all = active + rows.renewed_count;
    ponder::AdaptiveInput io{};
    io.threshold = c.in<float>(2);
    io.state = c.in<float>(3);
    io.positions = c.in<float>(5);
    io.steps = c.in<float>(6);
    io.halt = c.in<float>(7);
    io.halt_bias = c.in<float>(8);
    io.epsilon = epsilon;
    io.d = d;
    io.slots = c.dim(3, 0);
    io.normalised = c.out<__half>(0, {all, d});
    io.x = c.out<float>(1, {active, d});
    io.weight = c.out<float>(2, {active, 1});
    io.halted = c.out<bool>(3, {active, 1});
    io.remainder = c.out<float>(4, {active, 1});
    io.halting = c.in_place<float>(4, 5);
    ponder::adaptive_input(rows, io, c.stream());
  };
}

void write_cache(Call& c) {
  auto* keys = c.in_place<__half>(3, 0);
  auto* values = c.in_place<__half>(4, 1);
  ponder::write_cache(c.rows(0, 1), c.in<__half>(2), c.dim(3, 1), c.dim(3, 0), keys, values, c.stream());
}

void write_memory(Call& c) {
  auto* keys = c.in_place<__half>(2, 0);
  auto* values = c.in_place<__half>(3, 1);
  ponder::write_memory(c.in<Row>(0), c.dim(0, 0), c.in<__half>(1), c.dim(2, 1), c.dim(2, 0), keys, values, c.stream());
}

/// What both kinds of attention take and give: q, keys, values, active first, and `key_index` and what follows it from that input on.
ponder::Attention attention_of(Call& c, int heads, size_t key_index, bool memory) {
  const int width = c.dim(1, 1);
  ponder::Attention io{};
  io.q = c.in<__half>(0);
  io.stride = c.dim(0, 1);
  io.keys = c.in<__half>(1);
  io.values = c.in<__half>(2);
  io.rows = c.in<Row>(3);
  io.key_index = c.in<int32_t>(key_index);
  io.seen = memory ? c.in<int32_t>(key_index + 1) : nullptr;
  io.heads = heads;
  io.d_head = width / heads;
  io.out = c.out<__half>(0, {c.dim(3, 0), width});
  return io;
}

void require_head_size(bool known) {
  require(known, "no kernel for this head size: 32, 64 and 128 have one; run without the native library");
}

/// q, keys, values, active, tiles, key_index[, seen]
Compute tiled_attention(Ort::ConstKernelInfo info, bool memory) {
  const int heads = static_cast<int>(info.GetAttribute<int64_t>("heads"));
  return [heads, memory](Call& c) {
    ponder::Attention io = attention_of(c, heads, 5, memory);
    io.tiles = c.in<Tile>(4);
    io.tile_count = c.dim(4, 0);
    require_head_size(ponder::attention(io, c.stream()));
  };
}

/// q, keys, values, active, key_index[, seen]
Compute row_attention(Ort::ConstKernelInfo info, bool memory) {
  const int heads = static_cast<int>(info.GetAttribute<int64_t>("heads"));
  return [heads, memory](Call& c) {
    require_head_size(ponder::row_attention(attention_of(c, heads, 4, memory), c.dim(3, 0), c.stream()));
  };
}

/// The rows that a product is tuned for; graphs of few rows say so.
int tuned_rows(Ort::ConstKernelInfo info) {
  int64_t rows = 0;
  OrtStatus* missing = Ort::GetApi().KernelInfoGetAttribute_int64(info, "rows", &rows);
  if (missing == nullptr) return static_cast<int>(rows);
  Ort::GetApi().ReleaseStatus(missing);
  return ponder::MANY_ROWS;
}

/// x, w, bias[, residual] -> y; one product a node, so that its choice of kernel stays with it.
Compute linear(Ort::ConstKernelInfo info, bool relu) {
  const int tuned = tuned_rows(info);
  auto product = std::make_shared<std::unique_ptr<ponder::Linear>>();
  return [product, relu, tuned](Call& c) {
    const int k = c.dim(1, 0), n = c.dim(1, 1);
    if (!*product) *product = std::make_unique<ponder::Linear>(k, n, relu ? ponder::Epilogue::bias_relu : ponder::Epilogue::bias, false, tuned);
    const int rows = c.dim(0, 0);
    auto* y = c.out<__half>(0, {rows, n});
    (*product)->run(rows, c.in<__half>(0), c.in<__half>(1), c.in<__half>(2), nullptr, y, c.stream());
  };
}

Compute linear_add(Ort::ConstKernelInfo info) {
  const int tuned = tuned_rows(info);
  auto product = std::make_shared<std::unique_ptr<ponder::Linear>>();
  return [product, tuned](Call& c) {
    const int k = c.dim(1, 0), n = c.dim(1, 1);
    if (!*product) *product = std::make_unique<ponder::Linear>(k, n, ponder::Epilogue::bias_add, false, tuned);
    const int rows = c.dim(0, 0);
    auto* y = c.out<float>(0, {rows, n});
    (*product)->run(rows, c.in<__half>(0), c.in<__half>(1), c.in<float>(2), c.in<float>(3), y, c.stream());
  };
}

Compute logits(Ort::ConstKernelInfo) {
  auto product = std::make_shared<std::unique_ptr<ponder::Linear>>();
  return [product](Call& c) {
    const int n = c.dim(1, 0), k = c.dim(1, 1);
    if (!*product) *product = std::make_unique<ponder::Linear>(k, n, ponder::Epilogue::plain, true);
    const int rows = c.dim(0, 0);
    auto* y = c.out<float>(0, {rows, n});
    (*product)->run(rows, c.in<__half>(0), c.in<__half>(1), nullptr, nullptr, y, c.stream());
  };
}

Compute normalise_rows(Ort::ConstKernelInfo info) {
  const float epsilon = info.GetAttribute<float>("epsilon");
  return [epsilon](Call& c) {
    const int rows = c.dim(0, 0), d = c.dim(0, 1);
    require_width(d);
    ponder::normalise_rows(c.in<float>(0), rows, d, epsilon, c.out<__half>(0, {rows, d}), c.stream());
  };
}

void write_rows(Call& c) {
  const int d = c.dim(3, 1);
  require_width(d);
  auto* state = c.in_place<float>(3, 0);
  auto* accumulator = c.in_place<float>(4, 1);
  ponder::write_rows(c.in<Row>(0), c.dim(0, 0), c.in<float>(1), c.in<float>(2), d, c.dim(3, 0), state, accumulator, c.stream());
}

/// active, threshold, halted, remainder, renewed, renewed_table, tile_table, depths, remainders, after. `after` is not read: a pool as WriteRows
/// returned it, so that ONNX Runtime has run all readers of the tables before they are written.
void compact_rows(Call& c) {
  ponder::Compaction io{};
  io.active_count = c.dim(0, 0);
  io.halted = c.in<bool>(2);
  io.remainder = c.in<float>(3);
  io.renewed_count = c.dim(4, 0);
  io.renewed_capacity = c.dim(5, 0);
  io.tile_capacity = c.dim(6, 0);
  io.slots = c.dim(7, 0);
  io.active = reinterpret_cast<Row*>(c.in_place<int32_t>(0, 0));
  io.threshold = c.in_place<float>(1, 1);
  io.renewed = reinterpret_cast<Row*>(c.in_place<int32_t>(5, 2));
  io.tiles = reinterpret_cast<Tile*>(c.in_place<int32_t>(6, 3));
  io.depths = c.in_place<int32_t>(7, 4);
  io.remainders = c.in_place<float>(8, 5);
  io.progress = c.out<int32_t>(6, {ponder::PROGRESS_HEAD + ponder::LANES_MAX});
  ponder::compact_rows(io, c.stream());
}

void tile_rows(Call& c) {
  auto* tiles = reinterpret_cast<Tile*>(c.in_place<int32_t>(1, 0));
  auto* progress = c.out<int32_t>(1, {ponder::PROGRESS_HEAD + ponder::LANES_MAX});
  ponder::tile_rows(c.in<Row>(0), c.dim(0, 0), tiles, c.dim(1, 0), progress, c.stream());
}

/// accumulator, slots[, gain, shift]
Compute read_sums(Ort::ConstKernelInfo info, bool affine) {
  const float epsilon = info.GetAttribute<float>("epsilon");
  return [epsilon, affine](Call& c) {
    const int rows = c.dim(1, 0), d = c.dim(0, 1);
    require_width(d);
    const float* gain = affine ? c.in<float>(2) : nullptr;
    const float* shift = affine ? c.in<float>(3) : nullptr;
    ponder::read_sums(c.in<float>(0), c.in<int32_t>(1), rows, d, c.dim(0, 0), epsilon, gain, shift, c.out<__half>(0, {rows, d}), c.stream());
  };
}

void target_logprob(Call& c) {
  const int rows = c.dim(0, 0);
  ponder::target_logprob(c.in<float>(0), c.in<float>(1), c.in<int32_t>(2), rows, c.dim(0, 1), c.out<float>(0, {rows}), c.stream());
}

void top_logprobs(Call& c) {
  const int rows = c.dim(0, 0);
  const int64_t k = *c.in<int64_t>(2);
  auto* best = c.out<float>(0, {rows, k});
  auto* ids = c.out<int32_t>(1, {rows, k});
  ponder::top_logprobs(c.in<float>(0), c.in<float>(1), rows, c.dim(0, 1), static_cast<int>(k), best, ids, c.stream());
}

/// x, w, scale -> peaks, sums, ids
void logit_groups(Call& c) {
  ponder::LogitGroups io{};
  io.x = c.in<__half>(0);
  io.w = c.in<__half>(1);
  io.scale = c.in<float>(2);
  io.rows = c.dim(0, 0);
  io.vocabulary = c.dim(1, 0);
  io.d = c.dim(1, 1);
  require_width(io.d);
  const std::vector<int64_t> shape = {ponder::logit_groups_of(io.vocabulary), io.rows};
  io.peaks = c.out<float>(0, shape);
  io.sums = c.out<float>(1, shape);
  io.ids = c.out<int32_t>(2, shape);
  ponder::logit_groups(io, c.stream());
}

/// peaks, sums, x, w, scale, targets
void grouped_target_logprob(Call& c) {
  ponder::LogitGroups io{};
  io.peaks = const_cast<float*>(c.in<float>(0));
  io.sums = const_cast<float*>(c.in<float>(1));
  io.x = c.in<__half>(2);
  io.w = c.in<__half>(3);
  io.scale = c.in<float>(4);
  io.rows = c.dim(2, 0);
  io.vocabulary = c.dim(3, 0);
  io.d = c.dim(3, 1);
  ponder::grouped_target_logprob(io, c.in<int32_t>(5), c.out<float>(0, {io.rows}), c.stream());
}

/// peaks, sums, ids, scale
void grouped_best(Call& c) {
  ponder::LogitGroups io{};
  io.peaks = const_cast<float*>(c.in<float>(0));
  io.sums = const_cast<float*>(c.in<float>(1));
  io.ids = const_cast<int32_t*>(c.in<int32_t>(2));
  io.rows = c.dim(0, 1);
  io.vocabulary = c.dim(3, 0);
  auto* best = c.out<float>(0, {io.rows, 1});
  ponder::grouped_best(io, best, c.out<int32_t>(1, {io.rows, 1}), c.stream());
}

void read_halting(Call& c) {
  const int rows = c.dim(2, 0);
  auto* depth = c.out<int32_t>(0, {rows});
  auto* remainder = c.out<float>(1, {rows});
  ponder::read_halting(c.in<int32_t>(0), c.in<float>(1), c.in<int32_t>(2), rows, c.dim(0, 0), depth, remainder, c.stream());
}

/// at, arrivals, thresholds, seats, threshold
void seat_sentences(Call& c) {
  auto* seats = reinterpret_cast<Seat*>(c.in_place<int32_t>(3, 0));
  auto* threshold = c.in_place<float>(4, 1);
  ponder::seat_sentences(c.in<int32_t>(0), c.in<Seat>(1), c.in<float>(2), c.dim(0, 0), c.dim(3, 0), seats, threshold, c.stream());
}

/// seats, key_depths, halted, remainder, logprob, id, said_ids, said_numbers, emb, scale, state, accumulator, halting
Compute advance_seats(Ort::ConstKernelInfo info) {
  const int eos = static_cast<int>(info.GetAttribute<int64_t>("eos"));
  const bool plans = info.GetAttribute<int64_t>("plans") != 0;
  const float factor = info.GetAttribute<float>("factor");
  return [eos, plans, factor](Call& c) {
    const int64_t count = c.dim(0, 0), context = c.dim(1, 1);
    ponder::SeatAdvance io{};
    io.eos = eos;
    io.context = static_cast<int>(context);
    io.plans = plans;
    io.halted = c.in<bool>(2);
    io.remainder = c.in<float>(3);
    io.logprob = c.in<float>(4);
    io.id = c.in<int32_t>(5);
    io.seats = reinterpret_cast<Seat*>(c.in_place<int32_t>(0, 0));
    io.key_depths = c.in_place<int32_t>(1, 1);
    io.said_ids = c.in_place<int32_t>(6, 2);
    io.said_numbers = c.in_place<float>(7, 3);
    io.active = reinterpret_cast<Row*>(c.out<int32_t>(4, {count, 8}));
    io.renewed = reinterpret_cast<Row*>(c.out<int32_t>(5, {count, 8}));
    io.key_index = c.out<int32_t>(6, {count * context});
    io.seen = c.out<int32_t>(7, {count, 2});
    io.slots = c.out<int32_t>(8, {count});
    io.embedding = c.in<int8_t>(8);
    io.scale = c.in<float>(9);
    io.factor = factor;
    io.d = c.dim(10, 1);
    require_width(io.d);
    io.state = c.in_place<float>(10, 9);
    io.accumulator = c.in_place<float>(11, 10);
    io.halting = c.in_place<float>(12, 11);
    ponder::advance_seats(io, static_cast<int>(count), c.stream());
  };
}

std::vector<Op*> make_operators() {
  std::vector<Op*> all = {
      new Op("StartRows", {I32, I32, I8, F32, F32, F32, F32}, {F32, F32, F32}, start_rows),
      new Op("StartLanes", {I32, F32, I32, I8, F32, I32, F32, F32, F32, F32}, {I32, F32, F32, F32, F32}, start_lanes),
      new Op("AdaptiveInput", {I32, I32, F32, F32, F32, F32, F32, F32, F32}, {F16, F32, F32, BOOL, F32, F32}, adaptive_input),
      new Op("WriteCache", {I32, I32, F16, F16, F16}, {F16, F16}, stateless(write_cache)),
      new Op("WriteMemory", {I32, F16, F16, F16}, {F16, F16}, stateless(write_memory)),
      new Op("TiledAttention", {F16, F16, F16, I32, I32, I32}, {F16}, [](auto info) { return tiled_attention(info, false); }),
      new Op("TiledMemoryAttention", {F16, F16, F16, I32, I32, I32, I32}, {F16}, [](auto info) { return tiled_attention(info, true); }),
      new Op("RowAttention", {F16, F16, F16, I32, I32}, {F16}, [](auto info) { return row_attention(info, false); }),
      new Op("RowMemoryAttention", {F16, F16, F16, I32, I32, I32}, {F16}, [](auto info) { return row_attention(info, true); }),
      new Op("Linear", {F16, F16, F16}, {F16}, [](auto info) { return linear(info, false); }),
      new Op("LinearRelu", {F16, F16, F16}, {F16}, [](auto info) { return linear(info, true); }),
      new Op("LinearAdd", {F16, F16, F32, F32}, {F32}, linear_add),
      new Op("Logits", {F16, F16}, {F32}, logits),
      new Op("NormalizeRows", {F32}, {F16}, normalise_rows),
      new Op("WriteRows", {I32, F32, F32, F32, F32}, {F32, F32}, stateless(write_rows)),
      new Op("CompactRows", {I32, F32, BOOL, F32, I32, I32, I32, I32, F32, F32}, {I32, F32, I32, I32, I32, F32, I32}, stateless(compact_rows)),
      new Op("TileRows", {I32, I32}, {I32, I32}, stateless(tile_rows)),
      new Op("ReadNormalized", {F32, I32}, {F16}, [](auto info) { return read_sums(info, false); }),
      new Op("ReadSums", {F32, I32, F32, F32}, {F16}, [](auto info) { return read_sums(info, true); }),
      new Op("TargetLogProb", {F32, F32, I32}, {F32}, stateless(target_logprob)),
      new Op("TopLogProbs", {F32, F32, I64}, {F32, I32}, stateless(top_logprobs), 2),
      new Op("SeatSentences", {I32, I32, F32, I32, F32}, {I32, F32}, stateless(seat_sentences)),
      new Op("AdvanceSeats", {I32, I32, BOOL, F32, F32, I32, I32, F32, I8, F32, F32, F32, F32},
             {I32, I32, I32, F32, I32, I32, I32, I32, I32, F32, F32, F32}, advance_seats),
      new Op("LogitGroups", {F16, F16, F32}, {F32, F32, I32}, stateless(logit_groups)),
      new Op("GroupedTargetLogProb", {F32, F32, F16, F16, F32, I32}, {F32}, stateless(grouped_target_logprob)),
      new Op("GroupedBest", {F32, F32, I32, F32}, {F32, I32}, stateless(grouped_best)),
      new Op("ReadHalting", {I32, F32, I32}, {I32, F32}, stateless(read_halting)),
  };
  add_span_operators(all);
  return all;
}

const std::vector<Op*>& operators() {
  static const std::vector<Op*> all = make_operators();
  return all;
}

}  // namespace
}  // namespace ponder::ops

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(17);
  Ort::InitApi(api);
  // The domain outlives every session that registered it.
  static OrtCustomOpDomain* domain = nullptr;
  if (domain == nullptr) {
    if (OrtStatus* status = api->CreateCustomOpDomain("ai.adaptive", &domain)) return status;
    for (ponder::ops::Op* op : ponder::ops::operators()) {
      if (OrtStatus* status = api->CustomOpDomain_Add(domain, op)) return status;
    }
  }
  return api->AddCustomOpDomain(options, domain);
}

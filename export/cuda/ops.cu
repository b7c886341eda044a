// The operators of `ai.adaptive` as ONNX Runtime custom operators for its CUDA provider. A session that registers this library uses them in place of
// the model-local functions of the same names (export/cuda_functions.py), which stay their definition.
//
// Pools are bound as input and output of one run; where ONNX Runtime gives an output memory of its own, the pool is copied first.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kernels.h"
#include "linear.h"
#include "span.h"

namespace {

using ponder::Row;
using ponder::Seat;
using ponder::Tile;

constexpr auto F32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto F16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr auto I8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr auto I32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr auto I64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
constexpr auto BOOL = ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
using Types = std::vector<ONNXTensorElementDataType>;

/// The inputs and outputs of one call, typed and with their dimensions at hand.
class Call {
 public:
  explicit Call(OrtKernelContext* context) : context_(context) {}

  cudaStream_t stream() const { return static_cast<cudaStream_t>(context_.GetGPUComputeStream()); }
  std::vector<int64_t> dims(size_t i) const { return context_.GetInput(i).GetTensorTypeAndShapeInfo().GetShape(); }
  int dim(size_t i, size_t axis) const { return static_cast<int>(dims(i)[axis]); }
  template <typename T>
  const T* in(size_t i) const {
    return static_cast<const T*>(context_.GetInput(i).GetTensorRawData());
  }
  template <typename T>
  T* out(size_t i, const std::vector<int64_t>& shape) {
    return static_cast<T*>(context_.GetOutput(i, shape).GetTensorMutableRawData());
  }
  /// Output `o` of the shape of input `i`, holding what it held.
  template <typename T>
  T* in_place(size_t i, size_t o) {
    const auto shape = dims(i);
    T* to = out<T>(o, shape);
    const T* from = in<T>(i);
    const size_t count = std::accumulate(shape.begin(), shape.end(), size_t{1}, std::multiplies<>());
    if (to != from) cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToDevice, stream());
    return to;
  }
  /// Runs `with` on so many numbers of the device's memory, or on null where there is none to have. They are given back once all is enqueued: what
  /// comes later on the stream may have them.
  void with_scratch(size_t numbers, const std::function<void(float*)>& with) {
    if (numbers == 0) return with(nullptr);
    Ort::Allocator allocator{nullptr};
    try {
      allocator = context_.GetAllocator(*context_.GetInput(0).GetTensorMemoryInfo());
    } catch (const Ort::Exception&) {
      // The runtime knows no allocator for where the input lies: slower without, and right all the same.
      return with(nullptr);
    }
    void* memory = allocator.Alloc(numbers * sizeof(float));
    with(static_cast<float*>(memory));
    allocator.Free(memory);
  }
  ponder::Rows rows(size_t active, size_t renewed) const { return {in<Row>(active), dim(active, 0), in<Row>(renewed), dim(renewed, 0)}; }

 private:
  Ort::KernelContext context_;
};

using Compute = std::function<void(Call&)>;
using Make = std::function<Compute(Ort::ConstKernelInfo)>;

struct Kernel {
  Compute compute;
};

OrtStatusPtr failure(const char* name, const std::exception& error) {
  const std::string message = std::string(name) + ": " + error.what();
  return Ort::GetApi().CreateStatus(ORT_FAIL, message.c_str());
}

/// One operator: its name, the types of its inputs and outputs, and what makes its kernel from a node's attributes.
struct Op : OrtCustomOp {
  Op(const char* name, Types inputs, Types outputs, Make make, int host_input = -1)
      : OrtCustomOp{}, name(name), inputs(std::move(inputs)), outputs(std::move(outputs)), make(std::move(make)), host_input(host_input) {
    // The kernel table is asked for in the version that the server asks for: newer runtimes offer it all the same.
    version = 17;
    GetName = [](const OrtCustomOp* op) { return self(op).name; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CUDAExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).inputs.size(); };
    GetInputType = [](const OrtCustomOp* op, size_t i) { return self(op).inputs[i]; };
    GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).outputs.size(); };
    GetOutputType = [](const OrtCustomOp* op, size_t i) { return self(op).outputs[i]; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp* op, size_t i) {
      return static_cast<int>(i) == self(op).host_input ? OrtMemTypeCPUInput : OrtMemTypeDefault;
    };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) -> OrtStatusPtr {
      try {
        *kernel = new Kernel{self(op).make(Ort::ConstKernelInfo{info})};
        return nullptr;
      } catch (const std::exception& error) {
        return failure(self(op).name, error);
      }
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatusPtr {
      try {
        Call call(context);
        static_cast<Kernel*>(kernel)->compute(call);
        const cudaError_t error = cudaPeekAtLastError();
        if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
        return nullptr;
      } catch (const std::exception& error) {
        return failure("ai.adaptive", error);
      }
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
  static const Op& self(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

  const char* name;
  Types inputs, outputs;
  Make make;
  int host_input;
};

void require(bool condition, const char* message) {
  if (!condition) throw std::runtime_error(message);
}
void require_width(int d) {
  require(d == 128 || d == 256 || d == 384 || d == 512 || d == 768 || d == 1024,
          "no kernel for this width: 128, 256, 384, 512, 768 and 1024 have one; run without the native library");
}

Make stateless(Compute compute) {
  return [compute](Ort::ConstKernelInfo) { return compute; };
}

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

/// q, keys, values, active, tiles, key_index[, seen]
Compute tiled_attention(Ort::ConstKernelInfo info, bool memory) {
  const int heads = static_cast<int>(info.GetAttribute<int64_t>("heads"));
  return [heads, memory](Call& c) {
    ponder::Attention io{};
    io.q = c.in<__half>(0);
    io.stride = c.dim(0, 1);
    io.keys = c.in<__half>(1);
    io.values = c.in<__half>(2);
    io.rows = c.in<Row>(3);
    io.tiles = c.in<Tile>(4);
    io.tile_count = c.dim(4, 0);
    io.key_index = c.in<int32_t>(5);
    io.seen = memory ? c.in<int32_t>(6) : nullptr;
    const int width = c.dim(1, 1);
    io.heads = heads;
    io.d_head = width / heads;
    io.out = c.out<__half>(0, {c.dim(3, 0), width});
    require(ponder::attention(io, c.stream()), "no kernel for this head size: 32, 64 and 128 have one; run without the native library");
  };
}

/// x, w, bias[, residual] -> y; one product a node, so that its choice of kernel stays with it.
/// q, keys, values, active, key_index[, seen]
Compute row_attention(Ort::ConstKernelInfo info, bool memory) {
  const int heads = static_cast<int>(info.GetAttribute<int64_t>("heads"));
  return [heads, memory](Call& c) {
    const int rows = c.dim(3, 0), width = c.dim(1, 1);
    ponder::Attention io{};
    io.q = c.in<__half>(0);
    io.stride = c.dim(0, 1);
    io.keys = c.in<__half>(1);
    io.values = c.in<__half>(2);
    io.rows = c.in<Row>(3);
    io.key_index = c.in<int32_t>(4);
    io.seen = memory ? c.in<int32_t>(5) : nullptr;
    io.heads = heads;
    io.d_head = width / heads;
    io.out = c.out<__half>(0, {rows, width});
    require(ponder::row_attention(io, rows, c.stream()), "no kernel for this head size: 32, 64 and 128 have one; run without the native library");
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

// Attention over learnt spans (span.cu).

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

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(17);
  Ort::InitApi(api);
  // The domain outlives every session that registered it.
  static OrtCustomOpDomain* domain = nullptr;
  if (domain == nullptr) {
    if (OrtStatus* status = api->CreateCustomOpDomain("ai.adaptive", &domain)) return status;
    for (Op* op : operators()) {
      if (OrtStatus* status = api->CustomOpDomain_Add(domain, op)) return status;
    }
  }
  return api->AddCustomOpDomain(options, domain);
}

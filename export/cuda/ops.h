// What ops.cu and ops_span.cu share: the inputs and outputs of a call, and an operator as ONNX Runtime takes it.
#pragma once
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace ponder::ops {

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
    Ort::MemoryAllocation memory{nullptr, nullptr, 0};
    try {
      allocator = context_.GetAllocator(*context_.GetInput(0).GetTensorMemoryInfo());
      memory = allocator.GetAllocation(numbers * sizeof(float));
    } catch (const Ort::Exception&) {
      // The runtime knows no allocator for where the input lies, or the arena is full: slower without, and right all the same.
    }
    with(static_cast<float*>(memory.get()));
  }
  Rows rows(size_t active, size_t renewed) const { return {in<Row>(active), dim(active, 0), in<Row>(renewed), dim(renewed, 0)}; }

 private:
  Ort::KernelContext context_;
};

using Compute = std::function<void(Call&)>;
using Make = std::function<Compute(Ort::ConstKernelInfo)>;

struct Kernel {
  Compute compute;
};

inline OrtStatusPtr failure(const char* name, const std::exception& error) {
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
        // What others left on this thread, such as an event that was not ready, is not ours.
        cudaGetLastError();
        Call call(context);
        static_cast<Kernel*>(kernel)->compute(call);
        const cudaError_t error = cudaGetLastError();
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

inline void require(bool condition, const char* message) {
  if (!condition) throw std::runtime_error(message);
}
inline void require_width(int d) {
  require(d == 128 || d == 256 || d == 384 || d == 512 || d == 768 || d == 1024,
          "no kernel for this width: 128, 256, 384, 512, 768 and 1024 have one; run without the native library");
}

inline Make stateless(Compute compute) {
  return [compute](Ort::ConstKernelInfo) { return compute; };
}

/// The operators of ops_span.cu.
void add_span_operators(std::vector<Op*>& all);

}  // namespace ponder::ops

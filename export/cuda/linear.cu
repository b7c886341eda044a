#include "linear.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace ponder {
namespace {

constexpr size_t WORKSPACE_BYTES = 32 << 20;
constexpr int CANDIDATES = 12;
constexpr int TIMED_RUNS = 20;
constexpr int TIMED_LAUNCHES = 4;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(std::string(what) + ": cuBLAS status " + std::to_string(status));
}
void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// One handle a device.
struct Library {
  cublasLtHandle_t handle = nullptr;
  /// One a stream: products of a stream run one after another.
  std::map<cudaStream_t, void*> workspaces;
};
std::mutex library_mutex;
Library& library() {
  static std::map<int, Library> libraries;
  const std::lock_guard<std::mutex> lock(library_mutex);
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  Library& l = libraries[device];
  if (l.handle == nullptr) check(cublasLtCreate(&l.handle), "cublasLtCreate");
  return l;
}
void* workspace(cudaStream_t stream) {
  Library& l = library();
  const std::lock_guard<std::mutex> lock(library_mutex);
  void*& memory = l.workspaces[stream];
  if (memory == nullptr) check(cudaMalloc(&memory, WORKSPACE_BYTES), "cuBLASLt workspace of 32 MiB");
  return memory;
}

void forget_workspace(Library& l, cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(library_mutex);
  const auto found = l.workspaces.find(stream);
  if (found == l.workspaces.end()) return;
  cudaFree(found->second);
  l.workspaces.erase(found);
}

/// Undoes something at the end of a scope, however that is left. `undo` must not throw.
struct AtEnd {
  std::function<void()> undo;
  ~AtEnd() { undo(); }
};

struct Layouts {
  cublasLtMatrixLayout_t w, x, y;
};

bool is_float(Epilogue e) { return e == Epilogue::bias_add || e == Epilogue::plain; }

}  // namespace

// cuBLAS is column-major: our row-major y [rows, n] is its y' [n, rows] = W' [n, k] x' [k, rows], and its bias runs along n.
struct Linear::Choice {
  int k, n;
  Epilogue epilogue;
  bool transposed;
  int tuned_rows;
  cublasLtMatmulDesc_t product = nullptr;
  bool chosen = false;
  cublasLtMatmulAlgo_t algorithm;
  std::map<int, Layouts> layouts;
  std::map<int, cublasLtMatmulAlgo_t> algorithms;

  Choice(int k, int n, Epilogue epilogue, bool transposed, int tuned_rows)
      : k(k), n(n), epilogue(epilogue), transposed(transposed), tuned_rows(tuned_rows) {
    check(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(CUBLASLT_MATMUL_DESC_TRANSA, op);
    cublasLtEpilogue_t e = CUBLASLT_EPILOGUE_DEFAULT;
    if (epilogue == Epilogue::bias || epilogue == Epilogue::bias_add) e = CUBLASLT_EPILOGUE_BIAS;
    if (epilogue == Epilogue::bias_relu) e = CUBLASLT_EPILOGUE_RELU_BIAS;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, e);
    if (epilogue != Epilogue::plain) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, is_float(epilogue) ? CUDA_R_32F : CUDA_R_16F);
  }
  ~Choice() {
    for (auto& [rows, l] : layouts) {
      for (auto layout : {l.w, l.x, l.y}) cublasLtMatrixLayoutDestroy(layout);
    }
    cublasLtMatmulDescDestroy(product);
  }
  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  }

  Layouts& layouts_for(int rows) {
    auto found = layouts.find(rows);
    if (found != layouts.end()) return found->second;
    Layouts l;
    const cudaDataType y = is_float(epilogue) ? CUDA_R_32F : CUDA_R_16F;
    check(transposed ? cublasLtMatrixLayoutCreate(&l.w, CUDA_R_16F, k, n, k) : cublasLtMatrixLayoutCreate(&l.w, CUDA_R_16F, n, k, n),
          "cublasLtMatrixLayoutCreate");
    check(cublasLtMatrixLayoutCreate(&l.x, CUDA_R_16F, k, rows, k), "cublasLtMatrixLayoutCreate");
    check(cublasLtMatrixLayoutCreate(&l.y, y, n, rows, n), "cublasLtMatrixLayoutCreate");
    return layouts.emplace(rows, l).first->second;
  }

  std::vector<cublasLtMatmulHeuristicResult_t> candidates(int rows, int count) {
    Layouts& l = layouts_for(rows);
    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const size_t bytes = WORKSPACE_BYTES;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes));
    // No sum is split over blocks: it would be made in an order that depends on the row count.
    const uint32_t whole = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole, sizeof(whole));
    std::vector<cublasLtMatmulHeuristicResult_t> found(count);
    int n_found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(library().handle, product, l.w, l.x, l.y, l.y, preference, count, found.data(), &n_found);
    cublasLtMatmulPreferenceDestroy(preference);
    check(status, "cublasLtMatmulAlgoGetHeuristic");
    if (n_found == 0) throw std::runtime_error("cuBLASLt has no kernel for this product");
    found.resize(n_found);
    return found;
  }

  void multiply(int rows, const cublasLtMatmulAlgo_t& algo, const __half* x, const __half* w, const float* residual, void* y, cudaStream_t stream) {
    Layouts& l = layouts_for(rows);
    const float one = 1.0f, beta = epilogue == Epilogue::bias_add ? 1.0f : 0.0f;
    const void* c = epilogue == Epilogue::bias_add ? residual : y;
    check(cublasLtMatmul(library().handle, product, &one, w, l.w, x, l.x, &beta, c, l.y, y, l.y, &algo, workspace(stream), WORKSPACE_BYTES,
                         stream),
          "cublasLtMatmul");
  }

  /// Milliseconds of TIMED_RUNS runs, launched as one graph: a product of few rows takes less time than its launch.
  static float time(const std::function<void()>& run, cudaStream_t stream) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaEvent_t began = nullptr, ended = nullptr;
    bool captures = false;
    const AtEnd tidy{[&] {
      if (captures) cudaStreamEndCapture(stream, &graph);
      if (began != nullptr) cudaEventDestroy(began);
      if (ended != nullptr) cudaEventDestroy(ended);
      if (executable != nullptr) cudaGraphExecDestroy(executable);
      if (graph != nullptr) cudaGraphDestroy(graph);
    }};
    run();
    check(cudaStreamSynchronize(stream), "timing a product");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "timing a product");
    captures = true;
    for (int i = 0; i < TIMED_RUNS; i++) run();
    captures = false;
    check(cudaStreamEndCapture(stream, &graph), "timing a product");
    check(cudaGraphInstantiate(&executable, graph, 0), "timing a product");
    cudaEventCreate(&began);
    cudaEventCreate(&ended);
    float least = INFINITY;
    for (int i = 0; i < TIMED_LAUNCHES; i++) {
      cudaEventRecord(began, stream);
      check(cudaGraphLaunch(executable, stream), "timing a product");
      cudaEventRecord(ended, stream);
      check(cudaEventSynchronize(ended), "timing a product");
      float ms = 0;
      cudaEventElapsedTime(&ms, began, ended);
      least = std::min(least, ms);
    }
    return least;
  }

  /// The fastest of cuBLASLt's candidates at tuned_rows, timed on buffers and a stream of its own: the default stream can't be captured.
  void choose(const __half* w, cudaStream_t callers) {
    const size_t x_bytes = sizeof(__half) * tuned_rows * k, y_bytes = sizeof(float) * tuned_rows * n;
    __half* x = nullptr;
    float *y = nullptr, *residual = nullptr;
    cudaStream_t stream = nullptr;
    Library& of_device = library();
    // Whatever throws below, the process lives on, and an engine that starts anew must not find less memory.
    const AtEnd tidy{[&] {
      cudaFree(x);
      cudaFree(y);
      cudaFree(residual);
      if (stream == nullptr) return;
      forget_workspace(of_device, stream);
      cudaStreamDestroy(stream);
    }};
    // What the caller has enqueued before may be what makes the weights.
    check(cudaStreamSynchronize(callers), "timing a product");
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "timing a product");
    check(cudaMalloc(&x, x_bytes), "tuning buffer");
    check(cudaMalloc(&y, y_bytes), "tuning buffer");
    check(cudaMalloc(&residual, y_bytes), "tuning buffer");
    cudaMemsetAsync(x, 0, x_bytes, stream);
    cudaMemsetAsync(residual, 0, y_bytes, stream);
    float best = INFINITY;
    for (const auto& candidate : candidates(tuned_rows, CANDIDATES)) {
      if (candidate.state != CUBLAS_STATUS_SUCCESS) continue;
      const float ms = time([&] { multiply(tuned_rows, candidate.algo, x, w, residual, y, stream); }, stream);
      if (ms >= best) continue;
      best = ms;
      algorithm = candidate.algo;
      chosen = true;
    }
    if (std::getenv("ADAPTIVE_CUDA_VERBOSE") != nullptr)
      fprintf(stderr, "linear %d x %d epilogue %d: %.1f us at %d rows\n", k, n, static_cast<int>(epilogue), best / TIMED_RUNS * 1000, tuned_rows);
  }

  const cublasLtMatmulAlgo_t& algorithm_for(int rows, const __half* w, cudaStream_t stream) {
    auto found = algorithms.find(rows);
    if (found != algorithms.end()) return found->second;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &capture);
    if (!chosen && capture == cudaStreamCaptureStatusNone) choose(w, stream);
    cublasLtMatmulHeuristicResult_t result;
    Layouts& l = layouts_for(rows);
    if (chosen && cublasLtMatmulAlgoCheck(library().handle, product, l.w, l.x, l.y, l.y, &algorithm, &result) == CUBLAS_STATUS_SUCCESS)
      return algorithms.emplace(rows, algorithm).first->second;
    return algorithms.emplace(rows, candidates(rows, 1)[0].algo).first->second;
  }
};

Linear::Linear(int k, int n, Epilogue epilogue, bool transposed, int tuned_rows)
    : choice_(std::make_unique<Choice>(k, n, epilogue, transposed, tuned_rows)) {}
Linear::~Linear() = default;

void Linear::run(int rows, const __half* x, const __half* w, const void* bias, const float* residual, void* y, cudaStream_t stream) {
  if (rows == 0) return;
  if (choice_->epilogue != Epilogue::plain) choice_->set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const auto& algorithm = choice_->algorithm_for(rows, w, stream);
  choice_->multiply(rows, algorithm, x, w, residual, y, stream);
}

}  // namespace ponder

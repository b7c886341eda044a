// y = x W with what follows it done in the product's epilogue, through cuBLASLt.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <memory>

namespace ponder {

enum class Epilogue {
  /// half y = x W + b
  bias,
  /// half y = max(x W + b, 0)
  bias_relu,
  /// float y = x W + b + residual
  bias_add,
  /// float y = x W
  plain,
};

/// Row counts of a step that fills a GPU.
constexpr int MANY_ROWS = 4096;

/// One matrix product of fixed K and N. The kernel that computes it is chosen once, at `tuned_rows` rows, and used for every row count: each sum is
/// then made in the same order, so that a row's result does not depend on its batch.
class Linear {
 public:
  /// `transposed`: W is stored [n, k] instead of [k, n].
  Linear(int k, int n, Epilogue epilogue, bool transposed, int tuned_rows = MANY_ROWS);
  ~Linear();
  /// x half [rows, k], bias half or float [n] as y is, residual float [rows, n]. Throws std::runtime_error with cuBLAS' status.
  void run(int rows, const __half* x, const __half* w, const void* bias, const float* residual, void* y, cudaStream_t stream);

 private:
  struct Choice;
  std::unique_ptr<Choice> choice_;
};

}  // namespace ponder

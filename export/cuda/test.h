// What the tests of the kernels share, and what each file of them (test_*.cu) has for `main` (test.cu) to call.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels.h"
#include "linear.h"

namespace ponder::test {

/// Counted by `expect`; what the program ends with.
extern int failures;
/// Ends the program at an error.
void ok(cudaError_t error);
/// Prints what was found of an error or a count, which fails where it is more than allowed or no number.
void expect(const char* what, double found, double allowed);

/// Memory on the device, filled from and read back to vectors.
template <typename T>
struct Device {
  T* data = nullptr;
  size_t count;
  explicit Device(size_t count) : count(count) { ok(cudaMalloc(&data, count * sizeof(T) + 16)), ok(cudaMemset(data, 0, count * sizeof(T))); }
  explicit Device(const std::vector<T>& from) : Device(from.size()) { ok(cudaMemcpy(data, from.data(), count * sizeof(T), cudaMemcpyHostToDevice)); }
  ~Device() { cudaFree(data); }
  Device(const Device&) = delete;
  std::vector<T> read() const {
    std::vector<T> to(count);
    ok(cudaDeviceSynchronize());
    ok(cudaMemcpy(to.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
    return to;
  }
  operator T*() const { return data; }
};

/// Normally distributed. All random numbers come from one sequence of a fixed seed: what is drawn depends on the order in which `main` calls.
std::vector<float> floats(size_t count, float scale = 1);
std::vector<__half> halves(const std::vector<float>& from);
int below(int n);
Row row_of(int slot, int position, int step, int first, int visible, int lane, int max_steps = 8, int min_steps = 1);

/// Microseconds of `run` in a CUDA graph.
float graph_time(cudaStream_t stream, const std::function<void()>& run);

// test_rows.cu
void test_adaptive_input();
void test_keys_and_values();
void test_start_lanes();
void time_start(int lanes, int length);

// test_compact.cu, test_seats.cu
void test_compaction();
void test_seats();

// test_attention.cu
void test_attention(int d_head, int heads, bool memory);

// test_linear.cu
void test_linear(Epilogue epilogue, bool transposed, const char* what);
void time_products();
void time_step(int lanes, int length);

// test_logits.cu
void test_output();
void output_layer();

// test_span.cu
void test_spans();
void time_spans(int u);

}  // namespace ponder::test

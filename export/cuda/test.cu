// Every kernel against a plain loop on the CPU, and the time of a whole step in a CUDA graph. Runs where a GPU is: `make test` in this folder.
#include "test.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

namespace ponder::test {

int failures = 0;

namespace {

std::mt19937 random_bits(1234);

int result() {
  std::printf(failures == 0 ? "all kernels agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace

void ok(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("CUDA: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

std::vector<float> floats(size_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(count);
  for (auto& x : out) x = normal(random_bits);
  return out;
}
std::vector<__half> halves(const std::vector<float>& from) { return std::vector<__half>(from.begin(), from.end()); }
int below(int n) { return static_cast<int>(random_bits() % n); }

void expect(const char* what, double found, double allowed) {
  const bool good = found <= allowed;
  std::printf("%s %-44s %.3g (at most %.3g)\n", good ? "ok  " : "FAIL", what, found, allowed);
  if (!good) failures++;
}

Row row_of(int slot, int position, int step, int first, int visible, int lane, int max_steps, int min_steps) {
  return {slot, slot, position, step, first, visible, lane, max_steps * 256 + min_steps};
}

float graph_time(cudaStream_t stream, const std::function<void()>& run) {
  run();
  ok(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  run();
  ok(cudaStreamEndCapture(stream, &graph));
  ok(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t began, ended;
  cudaEventCreate(&began);
  cudaEventCreate(&ended);
  for (int i = 0; i < 20; i++) ok(cudaGraphLaunch(executable, stream));
  cudaEventRecord(began, stream);
  for (int i = 0; i < 100; i++) ok(cudaGraphLaunch(executable, stream));
  cudaEventRecord(ended, stream);
  ok(cudaEventSynchronize(ended));
  float ms = 0;
  cudaEventElapsedTime(&ms, began, ended);
  cudaEventDestroy(began), cudaEventDestroy(ended);
  cudaGraphExecDestroy(executable), cudaGraphDestroy(graph);
  return ms * 10;
}

}  // namespace ponder::test

int main(int argc, char** argv) {
  using namespace ponder;
  using namespace ponder::test;
  if (argc > 1 && std::strcmp(argv[1], "logits") == 0) return output_layer(), result();
  test_adaptive_input();
  for (int d_head : {32, 64, 128}) test_attention(d_head, 4, false);
  test_attention(64, 8, true);
  test_compaction();
  test_keys_and_values();
  test_output();
  test_seats();
  test_linear(Epilogue::bias, false, "linear");
  test_linear(Epilogue::bias_relu, false, "linear, relu");
  test_linear(Epilogue::bias_add, false, "linear, residual");
  test_linear(Epilogue::plain, true, "linear, transposed");
  test_start_lanes();
  time_start(72, 32);
  time_start(4, 511);
  test_spans();
  for (int units : {8, 32, 128}) time_spans(units);
  for (int lanes : {1, 4, 16, 64, 128, 256}) time_step(lanes, 32);
  time_step(32, 256);
  time_step(16, 512);
  time_products();
  output_layer();
  return result();
}

// Products by cuBLASLt (linear.cu), and a step of them and all that lies between.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <utility>

#include "linear.h"
#include "test.h"

namespace ponder::test {

void test_linear(Epilogue epilogue, bool transposed, const char* what) {
  const int k = 512, n = 1536, rows = 200;
  const auto x = floats(static_cast<size_t>(rows) * k), w = floats(static_cast<size_t>(k) * n, 0.05f), bias = floats(n), residual = floats(static_cast<size_t>(rows) * n);
  Device<__half> d_x(halves(x)), d_w(halves(w)), half_bias(halves(bias)), half_y(static_cast<size_t>(rows) * n);
  Device<float> d_bias(bias), d_residual(residual), y(static_cast<size_t>(rows) * n);
  const bool wide = epilogue == Epilogue::bias_add || epilogue == Epilogue::plain;
  Linear linear(k, n, epilogue, transposed);
  auto run = [&](int count) {
    linear.run(count, d_x, d_w, wide ? static_cast<void*>(d_bias.data) : half_bias.data, d_residual, wide ? static_cast<void*>(y.data) : half_y.data, 0);
  };
  auto result = [&] {
    if (wide) return y.read();
    const auto h = half_y.read();
    return std::vector<float>(h.begin(), h.end());
  };
  run(rows);
  const auto got = result();
  double error = 0;
  for (int i = 0; i < rows; i += 17) {
    for (int j = 0; j < n; j++) {
      double sum = epilogue == Epilogue::plain ? 0 : bias[j];
      for (int l = 0; l < k; l++) sum += x[static_cast<size_t>(i) * k + l] * (transposed ? w[static_cast<size_t>(j) * k + l] : w[static_cast<size_t>(l) * n + j]);
      if (epilogue == Epilogue::bias_add) sum += residual[static_cast<size_t>(i) * n + j];
      if (epilogue == Epilogue::bias_relu) sum = std::max(sum, 0.0);
      error = std::max(error, std::abs(sum - got[static_cast<size_t>(i) * n + j]));
    }
  }
  expect(what, error, 2e-2);
  double differ = 0;
  for (int count : {1, 3, 16, 64, 100}) {
    run(count);
    const auto part = result();
    for (size_t i = 0; i < static_cast<size_t>(count) * n; i++) differ += part[i] != got[i];
  }
  expect("  numbers that differ at other row counts", differ, 0);
}

/// The products of a decoder's step, a row a sentence: which row count they are best tuned for.
void time_products() {
  struct Shape {
    const char* name;
    int k, n;
    Epilogue epilogue;
    bool transposed;
  };
  const Shape shapes[] = {{"qkv", 512, 1536, Epilogue::bias, false}, {"o", 512, 512, Epilogue::bias_add, false}, {"f1", 512, 2048, Epilogue::bias_relu, false},
                          {"f2", 2048, 512, Epilogue::bias_add, false}, {"logits", 512, 8192, Epilogue::plain, true}};
  const int most = 2048;
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream));
  for (const Shape& s : shapes) {
    Device<__half> x(static_cast<size_t>(most) * s.k), w(static_cast<size_t>(s.k) * s.n), half_bias(s.n);
    Device<float> bias(s.n), residual(static_cast<size_t>(most) * s.n), y(static_cast<size_t>(most) * s.n);
    for (const int tuned : {128, 256, 512, 1024, 4096}) {
      Linear product(s.k, s.n, s.epilogue, s.transposed, tuned);
      std::printf("%s tuned for %d rows:", s.name, tuned);
      for (const int rows : {64, 256, 512, 1024, 2048}) {
        const bool wide = s.epilogue == Epilogue::bias_add || s.epilogue == Epilogue::plain;
        const auto twenty = [&] {
          for (int i = 0; i < 20; i++) product.run(rows, x, w, wide ? static_cast<void*>(bias.data) : half_bias.data, residual, y, stream);
        };
        std::printf(" %d rows %.1f us", rows, graph_time(stream, twenty) / 20);
      }
      std::printf("\n");
    }
  }
}

/// A step of `lanes` x `length` positions, all running, as the graph makes it.
void time_step(int lanes, int length) {
  const int d = 512, heads = 8, ffn = 2048, rows = lanes * length, slots = rows + 1;
  Device<float> state(floats(static_cast<size_t>(slots) * d)), positions(floats(512 * d)), steps(floats(9 * d)), halt(floats(d, 0.02f)), bias(floats(1));
  std::vector<Row> table;
  std::vector<int32_t> identity(slots);
  for (int i = 0; i < slots; i++) identity[i] = i;
  for (int lane = 0; lane < lanes; lane++)
    for (int i = 0; i < length; i++) table.push_back(row_of(lane * length + i, i, 1, lane * length, i + 1, lane));
  std::vector<Tile> tile_list;
  for (int lane = 0; lane < lanes; lane++)
    for (int i = 0; i < length; i += TILE_ROWS) tile_list.push_back({lane * length + i, std::min(TILE_ROWS, length - i)});
  Device<Row> active(table), renewed(rows);
  Device<Tile> tiles(tile_list), tile_table(rows / TILE_ROWS + 1024);
  Device<int32_t> index(identity), depths(slots), progress(PROGRESS_HEAD + LANES_MAX);
  Device<float> threshold(std::vector<float>(rows, 100.0f)), halting(slots), accumulator(static_cast<size_t>(slots) * d), x(static_cast<size_t>(rows) * d), y(static_cast<size_t>(rows) * d), z(static_cast<size_t>(rows) * d);
  Device<float> weight(rows), remainder(rows), remainders(slots), wide_bias(floats(d));
  Device<bool> halted(rows);
  Device<__half> normalised(static_cast<size_t>(rows) * d), qkv(static_cast<size_t>(rows) * 3 * d), keys(static_cast<size_t>(slots) * d), values(static_cast<size_t>(slots) * d), seen(static_cast<size_t>(rows) * d), hidden(static_cast<size_t>(rows) * ffn);
  Device<__half> w_qkv(halves(floats(static_cast<size_t>(d) * 3 * d, 0.04f))), w_o(halves(floats(d * d, 0.04f))), w_1(halves(floats(static_cast<size_t>(d) * ffn, 0.04f))), w_2(halves(floats(static_cast<size_t>(ffn) * d, 0.02f)));
  Device<__half> b_qkv(halves(floats(3 * d))), b_1(halves(floats(ffn)));
  Linear qkv_product(d, 3 * d, Epilogue::bias, false), o(d, d, Epilogue::bias_add, false), f1(d, ffn, Epilogue::bias_relu, false), f2(ffn, d, Epilogue::bias_add, false);
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream));
  const Rows all{active, rows, renewed, 0};
  using Part = std::pair<const char*, std::function<void()>>;
  const std::vector<Part> parts = {
      {"adaptive_input", [&] { adaptive_input(all, {state, positions, steps, halt, bias, threshold, 1e-5f, d, slots, halting, x, weight, remainder, halted, normalised}, stream); }},
      {"qkv", [&] { qkv_product.run(rows, normalised, w_qkv, b_qkv, nullptr, qkv, stream); }},
      {"write_cache", [&] { write_cache(all, qkv, d, slots, keys, values, stream); }},
      {"attention", [&] { attention({qkv, 3 * d, keys, values, active, tiles, static_cast<int>(tile_list.size()), index, nullptr, heads, d / heads, seen}, stream); }},
      {"o", [&] { o.run(rows, seen, w_o, wide_bias, x, y, stream); }},
      {"normalise_rows", [&] { normalise_rows(y, rows, d, 1e-5f, normalised, stream); }},
      {"f1", [&] { f1.run(rows, normalised, w_1, b_1, nullptr, hidden, stream); }},
      {"f2", [&] { f2.run(rows, hidden, w_2, wide_bias, y, z, stream); }},
      {"write_rows", [&] { write_rows(active, rows, z, weight, d, slots, state, accumulator, stream); }},
      {"compact_rows", [&] { compact_rows({active, rows, threshold, nullptr, nullptr, renewed, 0, rows, tile_table, 512, slots, depths, remainders, progress}, stream); }},
  };
  auto step = [&] {
    for (auto& [name, run] : parts) run();
  };
  std::printf("step of %d x %d: %.1f us;", lanes, length, graph_time(stream, step));
  if (rows >= 512)
    for (auto& [name, run] : parts) std::printf(" %s %.1f", name, graph_time(stream, run));
  std::printf("\n");
}

}  // namespace ponder::test

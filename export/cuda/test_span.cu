// Attention over learnt spans, and what lies around it (span.cu, span_rows.cu).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>

#include "span.h"
#include "test.h"

namespace ponder::test {
namespace {

enum class Bias { shared, by_query, span, span_by_query };

/// Groups of heads over pools of their own, as a launch takes them, with random numbers. The windows of the first unit begin with row 0 over and over.
struct SpanLayer {
  SpanAttention io{};
  std::vector<int> heads, spans;
  int width = 0, s_max = 0;
  std::vector<float> qkv, pe, z, cap;
  std::vector<std::vector<float>> keys, values, bias;
  std::vector<std::vector<int32_t>> windows;
  std::vector<std::unique_ptr<Device<float>>> memory;
  std::vector<std::unique_ptr<Device<int32_t>>> tables;
  std::unique_ptr<Device<float>> rows, out, scratch;

  float* hold(const std::vector<float>& from) { return *memory.emplace_back(new Device<float>(from)); }

  SpanLayer(int d_head, std::vector<int> heads_of, std::vector<int> spans_of, int u, int m, Bias kind, std::vector<float> spans_z = {})
      : heads(std::move(heads_of)), spans(std::move(spans_of)) {
    int total = 0;
    for (int h : heads) total += h;
    for (int s : spans) s_max = std::max(s_max, s);
    width = total * d_head;
    const bool by_z = kind == Bias::span || kind == Bias::span_by_query;
    qkv = floats(static_cast<size_t>(u) * m * 3 * width, 0.4f);
    pe = floats(static_cast<size_t>(d_head) * s_max, 0.4f);
    z.resize(kind == Bias::span_by_query ? static_cast<size_t>(u) * m * total : total);
    for (auto& one : z) one = static_cast<float>(below(s_max + 1));
    for (size_t h = 0; h < spans_z.size(); h++) z[h] = spans_z[h];
    cap.assign(u, 1e9f);
    if (u > 1) cap[1] = 20;
    rows.reset(new Device<float>(qkv));
    out.reset(new Device<float>(static_cast<size_t>(u) * m * width));
    io.group_count = static_cast<int>(heads.size());
    io.u = u, io.m = m, io.d_head = d_head;
    io.q_row = 3 * width, io.q_unit = io.q_row * m, io.q_head = d_head;
    io.out_row = width;
    io.pe_stride = s_max;
    io.cap = hold(cap);
    io.ramp = 32;
    io.z_row = kind == Bias::span_by_query ? total : 0;
    const float *d_pe = hold(pe), *d_z = hold(z);
    int first = 0;
    for (size_t g = 0; g < heads.size(); g++) {
      const int s = spans[g], h = heads[g], pool = 1 + u * (s + m), longest = s + m;
      SpanGroup& group = io.groups[g];
      auto fill = [&] {
        const size_t count = static_cast<size_t>(pool) * h * d_head;
        // Where only time counts, hundreds of millions of numbers are not drawn one by one.
        auto rows_of = spans_z.empty() ? floats(count, 0.4f) : std::vector<float>(count, 0.3f);
        std::fill_n(rows_of.begin(), h * d_head, 0.0f);
        return rows_of;
      };
      keys.push_back(fill());
      values.push_back(fill());
      std::vector<int32_t> window(static_cast<size_t>(u) * longest);
      for (int unit = 0; unit < u; unit++) {
        const int turn = below(longest);
        for (int j = 0; j < longest; j++) window[unit * longest + j] = unit == 0 && j < s / 2 ? 0 : 1 + unit * longest + (j + turn) % longest;
      }
      if (!by_z) {
        const int rows_of = kind == Bias::by_query ? m : 1;
        std::vector<float> one(static_cast<size_t>(kind == Bias::by_query ? u : 1) * h * rows_of * s);
        for (size_t row = 0; row < one.size() / s; row++) {
          const int hidden = below(s);
          for (int x = 0; x < s; x++) one[row * s + x] = x < hidden ? -1e30f : -static_cast<float>(below(1000)) / 500;
          // A hole, which no span has.
          if (hidden + 40 < s && below(2) == 0) std::fill_n(one.begin() + row * s + hidden + 1, 38, -1e30f);
        }
        bias.push_back(one);
        group.bias = hold(one);
        // Groups of one launch share strides, so only one group has a bias.
        io.bias_row = rows_of > 1 ? s : 0, io.bias_head = static_cast<int64_t>(rows_of) * s;
        io.bias_unit = kind == Bias::by_query ? io.bias_head * h : 0;
      }
      group.q = rows->data + first * d_head;
      group.keys = hold(keys.back());
      group.values = hold(values.back());
      group.window = *tables.emplace_back(new Device<int32_t>(window));
      windows.push_back(window);
      group.pe = d_pe + s_max - s;
      group.z = d_z + first;
      group.out = out->data + first * d_head;
      group.heads = h, group.s = s;
      first += h;
    }
    scratch.reset(new Device<float>(std::max<size_t>(1, span_scratch(io))));
    io.scratch = *scratch;
  }

  double bias_at(size_t g, int unit, int head, int first, int row, int x) const {
    const int s = spans[g];
    if (!bias.empty()) return bias[g][unit * io.bias_unit + head * io.bias_head + row * io.bias_row + x];
    const float one = z[static_cast<size_t>(unit * io.m + row) * io.z_row + first + head];
    const double share = (std::min(one, cap[unit]) + io.ramp - (s - 1 - x)) / io.ramp;
    return share > 0 ? std::log(std::min(share, 1.0)) : -1e30;
  }

  /// The largest difference from plain loops.
  double error() const {
    const auto got = out->read();
    double worst = 0;
    for (size_t g = 0, first = 0; g < heads.size(); first += heads[g++]) {
      const int s = spans[g], d = io.d_head;
      for (int unit = 0; unit < io.u; unit++)
        for (int head = 0; head < heads[g]; head++)
          for (int row = 0; row < io.m; row++) {
            const float* q = qkv.data() + static_cast<size_t>(unit * io.m + row) * 3 * width + (first + head) * d;
            const int32_t* window = windows[g].data() + unit * (s + io.m) + row;
            auto of = [&](const std::vector<float>& pool, int x) { return pool.data() + (static_cast<size_t>(window[x]) * heads[g] + head) * d; };
            std::vector<double> weight(s);
            double peak = -1e30, total = 0;
            for (int x = 0; x < s; x++) {
              weight[x] = bias_at(g, unit, head, static_cast<int>(first), row, x);
              if (weight[x] > -1e29)
                for (int j = 0; j < d; j++) weight[x] += static_cast<double>(q[j]) * (of(keys[g], x)[j] + pe[static_cast<size_t>(j) * s_max + s_max - s + x]);
              peak = std::max(peak, weight[x]);
            }
            for (auto& w : weight) total += w = w > -1e29 ? std::exp(w - peak) : 0;
            std::vector<double> want(d);
            for (int x = 0; x < s; x++)
              if (weight[x] > 0)
                for (int j = 0; j < d; j++) want[j] += weight[x] / total * of(values[g], x)[j];
            for (int j = 0; j < d; j++) {
              const double difference = std::abs(want[j] - got[static_cast<size_t>(unit * io.m + row) * width + (first + head) * d + j]);
              worst = difference <= worst ? worst : difference;  // NaN is worse
            }
          }
    }
    return worst;
  }
};

void test_span_attention(int d_head, std::vector<int> heads, std::vector<int> spans, int u, int m, Bias kind) {
  SpanLayer layer(d_head, heads, spans, u, m, kind);
  span_attention(layer.io, 0);
  ok(cudaGetLastError());
  static const char* kinds[] = {"bias", "bias by query", "span", "span by query"};
  const std::string what = "span_attention: head " + std::to_string(d_head) + ", " + std::to_string(u) + " x " + std::to_string(m) + ", " +
                           std::to_string(heads.size()) + " groups to " + std::to_string(spans.back()) + ", " + kinds[static_cast<int>(kind)];
  expect(what.c_str(), layer.error(), 2e-5);
  if (u < 2) return;
  // The last unit alone.
  const auto all = layer.out->read();
  SpanAttention alone = layer.io;
  alone.u = 1;
  alone.cap += u - 1;
  for (int g = 0; g < alone.group_count; g++) {
    SpanGroup& group = alone.groups[g];
    group.q += (u - 1) * alone.q_unit;
    group.window += (u - 1) * (group.s + m);
    group.z += (u - 1) * m * alone.z_row;
    if (group.bias != nullptr) group.bias += (u - 1) * alone.bias_unit;
  }
  span_attention(alone, 0);
  const auto one = layer.out->read();
  double differ = 0;
  for (int i = 0; i < m * layer.width; i++) differ += one[i] != all[static_cast<size_t>(u - 1) * m * layer.width + i];
  expect("  numbers that differ when a unit is alone", differ, 0);
}

void test_write_spans() {
  const int u = 3, m = 20, d_head = 32;
  SpanLayer layer(d_head, {1, 3}, {16, 40}, u, m, Bias::span);
  write_spans(layer.io, layer.rows->data + layer.width, layer.width, 3 * layer.width, 0);
  ok(cudaDeviceSynchronize());
  double wrong = 0;
  for (int g = 0, first = 0; g < 2; first += layer.heads[g++]) {
    const int s = layer.spans[g], columns = layer.heads[g] * d_head;
    for (int part = 0; part < 2; part++) {
      auto want = part == 0 ? layer.keys[g] : layer.values[g];
      for (int unit = 0; unit < u; unit++)
        for (int row = 0; row < m; row++)
          for (int j = 0; j < columns; j++)
            want[static_cast<size_t>(layer.windows[g][unit * (s + m) + s + row]) * columns + j] =
                layer.qkv[(static_cast<size_t>(unit * m + row) * 3 + 1 + part) * layer.width + first * d_head + j];
      std::vector<float> got(want.size());
      ok(cudaMemcpy(got.data(), part == 0 ? layer.io.groups[g].keys : layer.io.groups[g].values, got.size() * sizeof(float), cudaMemcpyDeviceToHost));
      for (size_t i = 0; i < got.size(); i++) wrong += got[i] != want[i];
    }
  }
  expect("write_spans", wrong, 0);
}

void test_add_normalise() {
  const int rows = 13, d = 272;
  const auto x = floats(rows * d), y = floats(rows * d), bias = floats(d), gain = floats(d), shift = floats(d);
  Device<float> d_x(x), d_y(y), d_bias(bias), d_gain(gain), d_shift(shift), out(rows * d);
  add_normalise(d_x, d_y, d_bias, d_gain, d_shift, rows, d, 1e-5f, out, 0);
  const auto got = out.read();
  double error = 0;
  for (int i = 0; i < rows; i++) {
    auto at = [&](int j) { return static_cast<double>(x[i * d + j]) + y[i * d + j] + bias[j]; };
    double mean = 0, variance = 0;
    for (int j = 0; j < d; j++) mean += at(j) / d;
    for (int j = 0; j < d; j++) variance += std::pow(at(j) - mean, 2) / d;
    for (int j = 0; j < d; j++) {
      error = std::max(error, std::abs((at(j) - mean) / std::sqrt(variance + 1e-5) * gain[j] + shift[j] - got[i * d + j]));
    }
  }
  expect("add_normalise", error, 1e-5);
  add_relu(d_x, d_bias, rows, d, out, 0);
  const auto relu = out.read();
  double wrong = 0;
  for (int i = 0; i < rows * d; i++) wrong += relu[i] != std::max(x[i] + bias[i % d], 0.0f);
  expect("add_relu", wrong, 0);
}

/// Microseconds of a launch, one after another.
float time_of(const std::function<void()>& run) {
  cudaEvent_t began, ended;
  cudaEventCreate(&began);
  cudaEventCreate(&ended);
  const int times = 30;
  for (int i = 0; i < 5; i++) run();
  cudaEventRecord(began, 0);
  for (int i = 0; i < times; i++) run();
  cudaEventRecord(ended, 0);
  ok(cudaEventSynchronize(ended));
  ok(cudaGetLastError());
  float ms = 0;
  cudaEventElapsedTime(&ms, began, ended);
  return ms / times * 1000;
}

}  // namespace

void test_spans() {
  for (int d_head : {32, 64, 128}) {
    for (Bias kind : {Bias::shared, Bias::by_query}) {
      for (int s : {16, 100, 1024}) test_span_attention(d_head, {3}, {s}, 2, 64, kind);
    }
    test_span_attention(d_head, {2, 1, 1}, {48, 112, 304}, 3, 64, Bias::span);
    test_span_attention(d_head, {1, 2}, {33, 128}, 2, 64, Bias::span_by_query);
  }
  test_span_attention(64, {1, 1, 1}, {48, 600, 8192}, 2, 64, Bias::span);
  // Units of a new token, of a short text, of more than a tile; a head size without a kernel of its own.
  for (int m : {2, 32, 80}) test_span_attention(64, {1, 2}, {48, 160}, 2, m, Bias::span);
  test_span_attention(48, {1, 2}, {48, 160}, 2, 64, Bias::span_by_query);
  test_span_attention(20, {2}, {150}, 2, 3, Bias::by_query);
  test_write_spans();
  test_add_normalise();
}

/// A layer of 8 heads of 64 with S = 8192 as of the published model: each head at its own span, and all at the widest. Multiplications of what a
/// query sees, ramp included.
void time_spans(int u) {
  const std::vector<int> ramp = {48}, upper = {64, 112, 160, 256, 400, 624, 992, 1552}, widest = {1600};
  const std::vector<std::tuple<const char*, std::vector<int>, std::vector<int>>> layers = {
      {"at the ramp", {8}, ramp}, {"per head", std::vector<int>(8, 1), upper}, {"at the widest", {8}, widest}};
  for (const auto& [what, heads, spans] : layers) {
    std::vector<float> z;
    for (size_t g = 0; g < heads.size(); g++) z.insert(z.end(), heads[g], static_cast<float>(spans[g] - 32));
    SpanLayer layer(64, heads, spans, u, 64, Bias::span, z);
    for (auto& one : layer.cap) one = 1e9f;
    Device<float> uncapped(layer.cap);
    layer.io.cap = uncapped;
    const float us = time_of([&] { span_attention(layer.io, 0); });
    double keys = 0;
    for (size_t g = 0; g < heads.size(); g++) keys += static_cast<double>(heads[g]) * spans[g];
    const double flops = 2.0 * 3 * 64 * 64 * u * keys;
    std::printf("span_attention, %d units of 64, 8 heads %s: %.1f us, %.1f TFLOP/s useful\n", u, what, us, flops / us / 1e6);
  }
  const int rows = 64 * u, d = 512, ffn = 2048;
  SpanLayer layer(64, std::vector<int>(8, 1), upper, u, 64, Bias::span, std::vector<float>(8, 48.0f));
  Device<float> x(static_cast<size_t>(rows) * ffn), y(static_cast<size_t>(rows) * ffn), of_column(ffn);
  std::printf("%d rows: write_spans %.1f us,", rows, time_of([&] { write_spans(layer.io, layer.rows->data + d, d, 3 * d, 0); }));
  std::printf(" add_normalise %.1f us,", time_of([&] { add_normalise(x, y, of_column, of_column, of_column, rows, d, 1e-5f, y, 0); }));
  std::printf(" add_relu %.1f us\n", time_of([&] { add_relu(x, of_column, rows, ffn, y, 0); }));
}

}  // namespace ponder::test

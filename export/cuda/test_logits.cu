// The output layer: in groups of words (logits.cu, logits_hopper.cu), and the softmax of logits (logprob.cu).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <utility>

#include "linear.h"
#include "test.h"

namespace ponder::test {
namespace {

/// The output layer's tiles of one path, which all give the same numbers, by name.
using TilePath = std::vector<std::pair<const char*, std::function<void(const LogitGroups&, cudaStream_t)>>>;
TilePath mma_tiles() {
  auto tiles = [](LogitTiles shape) { return [shape](const LogitGroups& io, cudaStream_t stream) { logit_groups(io, stream, shape); }; };
  return {{"64 x 64", tiles(LogitTiles::small)}, {"128 x 128", tiles(LogitTiles::medium)}, {"128 x 256", tiles(LogitTiles::large)}};
}
TilePath wgmma_tiles() {
  auto tiles = [](int words) { return [words](const LogitGroups& io, cudaStream_t stream) { hopper_logit_groups(io, words, stream); }; };
  return {{"128 x 64", tiles(64)}, {"128 x 128", tiles(128)}, {"128 x 256", tiles(256)}};
}

/// The output layer in groups, by each path that this device has: against a plain loop, in tiles of every shape, at other row counts.
void test_logit_groups(int rows, int vocabulary, int d) {
  const int groups = logit_groups_of(vocabulary);
  const auto x = floats(static_cast<size_t>(rows) * d);
  auto w = floats(static_cast<size_t>(vocabulary) * d);
  auto scale = floats(vocabulary, 0.02f);
  for (auto& v : w) v = std::round(v * 30);
  for (auto& s : scale) s = std::abs(s) / 30;
  // Two words that are the same, far apart, and best in row 0.
  const int twin = vocabulary - 3;
  for (int j = 0; j < d; j++) w[5 * d + j] = w[static_cast<size_t>(twin) * d + j] = std::round(x[j] * 60);
  scale[5] = scale[twin] = 0.01f;
  std::vector<int32_t> targets(rows);
  for (auto& t : targets) t = below(vocabulary);
  targets[rows - 1] = vocabulary - 1;
  const auto half_x = halves(x), half_w = halves(w);
  const size_t parts = static_cast<size_t>(groups) * rows;
  Device<__half> d_x(half_x), d_w(half_w);
  Device<float> d_scale(scale), peaks(parts), sums(parts), logprob(rows), best(rows);
  Device<int32_t> words(parts), d_targets(targets), ids(rows);
  LogitGroups io{d_x, d_w, d_scale, rows, vocabulary, d, peaks, sums, words};

  const std::string what = std::to_string(rows) + " x " + std::to_string(vocabulary) + " x " + std::to_string(d);
  const std::vector<float> exact_x(half_x.begin(), half_x.end()), exact_w(half_w.begin(), half_w.end());
  std::vector<std::vector<double>> logits_of;
  const int sampled = std::max(1, rows / 40);
  for (int i = 0; i < rows; i += sampled) {
    std::vector<double> logits(vocabulary);
    for (int j = 0; j < vocabulary; j++) {
      double dot = 0;
      for (int l = 0; l < d; l++) dot += static_cast<double>(exact_x[static_cast<size_t>(i) * d + l]) * exact_w[static_cast<size_t>(j) * d + l];
      logits[j] = dot * scale[j];
    }
    logits_of.push_back(logits);
  }

  auto finish = [&] {
    grouped_target_logprob(io, d_targets, logprob, 0);
    grouped_best(io, best, ids, 0);
    ok(cudaGetLastError());
    ok(cudaDeviceSynchronize());
  };
  auto clear = [&] { ok(cudaMemset(peaks, 0xff, parts * 4)), ok(cudaMemset(sums, 0xff, parts * 4)), ok(cudaMemset(words, 0xff, parts * 4)); };
  auto test_path = [&](const char* name, const TilePath& path, bool by_rows) {
    io.rows = rows;
    clear(), path[0].second(io, 0), finish();
    const auto got = logprob.read(), got_best = best.read(), got_peaks = peaks.read(), got_sums = sums.read();
    const auto got_ids = ids.read(), got_words = words.read();
    double error = 0, wrong = 0, group_error = 0, group_wrong = 0;
    for (int n = 0; n < static_cast<int>(logits_of.size()); n++) {
      const int i = n * sampled;
      const auto& logits = logits_of[n];
      const int top = static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      double total = 0;
      for (double v : logits) total += std::exp(v - logits[top]);
      const double norm = logits[top] + std::log(total);
      // Written so that a number that is none is an error too.
      auto far = [](double a, double b, double size) { return std::isfinite(b) ? std::abs(a - b) / std::max(1.0, std::abs(size)) : 1e9; };
      error = std::max({error, far(logits[targets[i]] - norm, got[i], norm), far(logits[top] - norm, got_best[i], norm)});
      // Another word only where the two are equal but for rounding.
      wrong += got_ids[i] < 0 || got_ids[i] >= vocabulary || (got_ids[i] != top && logits[top] - logits[got_ids[i]] > 1e-3);
      for (int group = 0; group < groups; group++) {
        const auto from = logits.begin() + group * LOGIT_GROUP, to = logits.begin() + std::min(vocabulary, (group + 1) * LOGIT_GROUP);
        const double peak = *std::max_element(from, to);
        double sum = 0;
        for (auto v = from; v != to; v++) sum += std::exp(*v - peak);
        const size_t at = static_cast<size_t>(group) * rows + i;
        group_error = std::max({group_error, far(peak, got_peaks[at], peak), far(sum, got_sums[at], sum)});
        const int word = got_words[at];
        group_wrong += word < group * LOGIT_GROUP || word >= std::min(vocabulary, (group + 1) * LOGIT_GROUP) || peak - logits[word] > 1e-3;
      }
    }
    expect((std::string("logit_groups, ") + name + ": " + what).c_str(), error, 2e-4);
    expect("  peaks and sums of groups", group_error, 2e-4);
    expect("  words of groups", group_wrong, 0);
    expect("  best words", wrong + (got_ids[0] != 5), 0);
    double differ = 0;
    auto compare = [&](int count) {
      const auto l = logprob.read(), b = best.read();
      const auto n = ids.read();
      for (int i = 0; i < count; i++) differ += l[i] != got[i] || b[i] != got_best[i] || n[i] != got_ids[i];
    };
    // Twice: what depends on the order in which blocks happen to run would show.
    for (int again = 0; again < 2; again++) {
      for (const auto& [shape, run] : path) {
        clear(), run(io, 0), finish();
        compare(rows);
        const auto p = peaks.read(), s = sums.read();
        const auto n = words.read();
        for (size_t i = 0; i < p.size(); i++) differ += p[i] != got_peaks[i] || s[i] != got_sums[i] || n[i] != got_words[i];
      }
    }
    expect("  numbers that differ by shape", differ, 0);
    if (!by_rows) return;
    differ = 0;
    for (int count : {1, 17, 64, 129, 260, 1025}) {
      if (count >= rows) continue;
      io.rows = count;
      clear(), logit_groups(io, 0), finish();
      compare(count);
    }
    expect("  numbers that differ by row count", differ, 0);
  };
  const bool hopper = hopper_has(io);
  test_path("mma.sync", mma_tiles(), !hopper);
  if (hopper) test_path("wgmma", wgmma_tiles(), true);
}

/// The output layer of a row count: in groups, by each path and in tiles of each shape, beside cuBLASLt's logits and their softmax in chunks that fit into the cache.
void time_output_layer(int rows) {
  const int d = 512, vocabulary = 8192, groups = logit_groups_of(vocabulary), chunk = 1024;
  Device<__half> x(halves(floats(static_cast<size_t>(rows) * d))), w(halves(floats(static_cast<size_t>(vocabulary) * d)));
  Device<float> scale(std::vector<float>(vocabulary, 0.05f)), peaks(static_cast<size_t>(groups) * rows), sums(static_cast<size_t>(groups) * rows), logprob(rows), best(rows);
  Device<float> products(static_cast<size_t>(std::min(rows, chunk)) * vocabulary);
  Device<int32_t> words(static_cast<size_t>(groups) * rows), targets(std::vector<int32_t>(rows, 7)), ids(rows);
  const LogitGroups io{x, w, scale, rows, vocabulary, d, peaks, sums, words};
  Linear product(d, vocabulary, Epilogue::plain, true);
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream));
  std::printf("output layer, %d rows:", rows);
  auto time_path = [&](const char* path, const TilePath& tiles) {
    std::printf(" %s", path);
    for (const auto& [name, run] : tiles) std::printf(" %s %.1f,", name, graph_time(stream, [&, &run = run] { run(io, stream); }));
  };
  time_path("mma.sync", mma_tiles());
  if (hopper_has(io)) time_path("wgmma", wgmma_tiles());
  std::printf(" chosen %.1f, with target %.1f, with best %.1f us;", graph_time(stream, [&] { logit_groups(io, stream); }),
              graph_time(stream, [&] { logit_groups(io, stream), grouped_target_logprob(io, targets, logprob, stream); }),
              graph_time(stream, [&] { logit_groups(io, stream), grouped_best(io, best, ids, stream); }));
  std::printf(" target %.1f, best %.1f us;", graph_time(stream, [&] { grouped_target_logprob(io, targets, logprob, stream); }),
              graph_time(stream, [&] { grouped_best(io, best, ids, stream); }));
  auto in_chunks = [&](bool softmax) {
    for (int at = 0; at < rows; at += chunk) {
      const int count = std::min(chunk, rows - at);
      product.run(count, x + static_cast<size_t>(at) * d, w, nullptr, nullptr, products, stream);
      if (softmax) target_logprob(products, scale, targets + at, count, vocabulary, logprob + at, stream);
    }
  };
  std::printf(" cuBLASLt %.1f, with target_logprob %.1f us\n", graph_time(stream, [&] { in_chunks(false); }), graph_time(stream, [&] { in_chunks(true); }));
  cudaStreamDestroy(stream);
}

}  // namespace

void test_output() {
  const int rows = 9, vocabulary = 1000, k = 20;
  const auto products = floats(rows * vocabulary, 3);
  auto scale = floats(vocabulary, 0.2f);
  auto logits = products;
  for (int i = 0; i < rows * vocabulary; i++) logits[i] *= scale[i % vocabulary] += i < vocabulary ? 1.0f : 0.0f;
  std::vector<int32_t> targets(rows);
  for (auto& t : targets) t = below(vocabulary);
  Device<float> d_products(products), d_scale(scale), logprob(rows), best(rows * k);
  Device<int32_t> d_targets(targets), ids(rows * k);
  target_logprob(d_products, d_scale, d_targets, rows, vocabulary, logprob, 0);
  top_logprobs(d_products, d_scale, rows, vocabulary, k, best, ids, 0);
  const auto got = logprob.read(), got_best = best.read();
  const auto got_ids = ids.read();
  double error = 0, wrong = 0;
  for (int i = 0; i < rows; i++) {
    double total = 0;
    std::vector<std::pair<float, int>> order;
    for (int j = 0; j < vocabulary; j++) total += std::exp(static_cast<double>(logits[i * vocabulary + j])), order.push_back({-logits[i * vocabulary + j], j});
    std::sort(order.begin(), order.end());
    error = std::max(error, std::abs(logits[i * vocabulary + targets[i]] - std::log(total) - got[i]));
    for (int n = 0; n < k; n++) {
      wrong += got_ids[i * k + n] != order[n].second;
      error = std::max(error, std::abs(-order[n].first - std::log(total) - got_best[i * k + n]));
    }
  }
  expect("target_logprob, top_logprobs", error, 1e-5);
  expect("top_logprobs: ids", wrong, 0);
}

/// Last of all, and alone with the argument "logits".
void output_layer() {
  test_logit_groups(9, 1000, 128);
  test_logit_groups(130, 200, 64);
  test_logit_groups(200, 700, 512);
  test_logit_groups(300, 8192, 512);
  test_logit_groups(2304, 8192, 512);
  for (int rows : {64, 128, 256, 512, 1024, 2304, 2560, 4096}) time_output_layer(rows);
}

}  // namespace ponder::test

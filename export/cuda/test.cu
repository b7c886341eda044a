// Every kernel against a plain loop on the CPU, and the time of a whole step in a CUDA graph. Runs where a GPU is: `make test` in this folder.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "linear.h"
#include "span.h"

using namespace ponder;

namespace {

int failures = 0;
std::mt19937 random_bits(1234);

void ok(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("CUDA: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

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

std::vector<float> floats(size_t count, float scale = 1) {
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

Row row_of(int slot, int position, int step, int first, int visible, int lane, int max_steps = 8, int min_steps = 1) {
  return {slot, slot, position, step, first, visible, lane, max_steps * 256 + min_steps};
}

void test_adaptive_input() {
  const int d = 512, slots = 100, active = 37, renewed = 11;
  const auto state = floats(slots * d), positions = floats(64 * d), steps = floats(9 * d), halt = floats(d, 0.05f), bias = floats(1);
  std::vector<float> halting(slots), threshold(active, 0.99f);
  for (auto& h : halting) h = 0.9f * (below(1000) / 1000.0f);
  std::vector<Row> a, r;
  for (int i = 0; i < active; i++) a.push_back(row_of(i * 2, below(64), 1 + below(8), 0, 1, 0, 1 + below(8), 1 + below(3)));
  a[5] = row_of(-1, -1, -1, -1, -1, -1);
  for (int i = 0; i < renewed; i++) r.push_back(row_of(i * 2 + 1, below(64), 1 + below(8), 0, 1, 0));
  Device<float> d_state(state), d_positions(positions), d_steps(steps), d_halt(halt), d_bias(bias), d_halting(halting), d_threshold(threshold);
  Device<Row> d_a(a), d_r(r);
  Device<float> x(active * d), weight(active), remainder(active);
  Device<bool> halted(active);
  Device<__half> normalised((active + renewed) * d);
  AdaptiveInput io{d_state, d_positions, d_steps, d_halt, d_bias, d_threshold, 1e-5f, d, slots, d_halting, x, weight, remainder, halted, normalised};
  adaptive_input({d_a, active, d_r, renewed}, io, 0);
  const auto got_x = x.read(), got_w = weight.read(), got_r = remainder.read(), got_h = d_halting.read();
  const auto got_n = normalised.read();
  std::vector<unsigned char> got_halted(active);
  ok(cudaMemcpy(got_halted.data(), halted.data, active, cudaMemcpyDeviceToHost));
  double ex = 0, en = 0, ew = 0, eh = 0;
  for (int i = 0; i < active + renewed; i++) {
    const Row& row = i < active ? a[i] : r[i - active];
    const int slot = row.slot < 0 ? slots - 1 : row.slot, position = std::max(row.position, 0), at_step = std::max(row.step, 0);
    std::vector<double> v(d);
    double mean = 0, variance = 0, logit = 0;
    for (int j = 0; j < d; j++) mean += v[j] = state[slot * d + j] + (positions[position * d + j] + steps[at_step * d + j]);
    mean /= d;
    if (i < active)
      for (int j = 0; j < d; j++) ex = std::max(ex, std::abs(v[j] - got_x[i * d + j]));
    for (auto& y : v) y -= mean, variance += y * y;
    const double inverse = 1 / std::sqrt(variance / d + 1e-5);
    for (int j = 0; j < d; j++) {
      en = std::max(en, std::abs(v[j] * inverse - static_cast<double>(__half2float(got_n[i * d + j]))) / (1 + std::abs(v[j] * inverse)));
      logit += v[j] * halt[j];
    }
    if (i >= active) continue;
    const double p = 1 / (1 + std::exp(-(logit * inverse + bias[0]))), before = halting[slot];
    const bool last = row.step == row.limits / 256, held = row.step < row.limits % 256;
    const double step = held ? std::min(p, 0.99f - before) : p;
    const bool stops = last || (!held && before + step > 0.99f);
    ew = std::max({ew, std::abs((stops ? 1 - before : step) - got_w[i]), std::abs((stops ? 1 - before : 0) - got_r[i])});
    if (stops != (got_halted[i] != 0)) eh += 1;
    if (row.slot >= 0) eh += std::abs((stops ? 1 : before + step) - got_h[slot]) > 1e-5;
  }
  expect("adaptive_input: x", ex, 1e-6);
  expect("adaptive_input: normalised", en, 1e-3);
  expect("adaptive_input: weight, remainder", ew, 1e-5);
  expect("adaptive_input: halting", eh, 0);
}

void test_attention(int d_head, int heads, bool memory) {
  const int width = heads * d_head, pool = 3000;
  const auto keys = floats(static_cast<size_t>(pool) * width, 0.5f), values = floats(static_cast<size_t>(pool) * width);
  std::vector<Row> rows;
  std::vector<Tile> tiles;
  std::vector<int32_t> index, seen;
  const int lengths[] = {1, 5, 16, 17, 32, 64, 65, 130, 300};
  for (int length : lengths) {
    const int first = static_cast<int>(index.size()), start = static_cast<int>(rows.size());
    for (int i = 0; i < length; i++) index.push_back(below(pool));
    for (int i = 0; i < length; i++) {
      if (below(3) == 0 && i > 0) continue;
      rows.push_back(row_of(0, i, 1, memory ? 0 : first, memory ? 1 : i + 1, 0));
      seen.push_back(first);
      seen.push_back(i + 1);
    }
    for (int at = start; at < static_cast<int>(rows.size()); at += TILE_ROWS)
      tiles.push_back({at, std::min(TILE_ROWS, static_cast<int>(rows.size()) - at)});
    tiles.push_back({0, 0});
  }
  const int count = static_cast<int>(rows.size()), stride = memory ? width : 3 * width;
  const auto q = floats(static_cast<size_t>(count) * stride, 0.5f);
  Device<__half> d_q(halves(q)), d_k(halves(keys)), d_v(halves(values)), out(static_cast<size_t>(count) * width);
  Device<Row> d_rows(rows);
  Device<Tile> d_tiles(tiles);
  Device<int32_t> d_index(index), d_seen(seen);
  Attention io{d_q, stride, d_k, d_v, d_rows, d_tiles, static_cast<int>(tiles.size()), d_index, memory ? d_seen.data : nullptr, heads, d_head, out};
  for (const bool by_row : {false, true}) {
  if (!(by_row ? row_attention(io, count, 0) : attention(io, 0))) failures++;
  const auto got = out.read();
  double error = 0;
  for (int i = 0; i < count; i++) {
    const int first = seen[2 * i], visible = seen[2 * i + 1];
    for (int h = 0; h < heads; h++) {
      std::vector<double> s(visible);
      double peak = -1e30, total = 0;
      for (int j = 0; j < visible; j++) {
        double dot = 0;
        for (int x = 0; x < d_head; x++) dot += q[static_cast<size_t>(i) * stride + h * d_head + x] * keys[static_cast<size_t>(index[first + j]) * width + h * d_head + x];
        s[j] = dot;
        peak = std::max(peak, dot);
      }
      for (auto& x : s) total += x = std::exp(x - peak);
      for (int x = 0; x < d_head; x++) {
        double sum = 0;
        for (int j = 0; j < visible; j++) sum += s[j] / total * values[static_cast<size_t>(index[first + j]) * width + h * d_head + x];
        error = std::max(error, std::abs(sum - static_cast<double>(__half2float(got[static_cast<size_t>(i) * width + h * d_head + x]))));
      }
    }
  }
  const std::string what = (by_row ? "row_attention: head " : "attention: head ") + std::to_string(d_head) + (memory ? ", memory" : "");
  expect(what.c_str(), error, 1e-2);
  }
}

void test_compaction() {
  const int capacity = 4096, lanes = 50;
  std::vector<Row> rows;
  std::vector<float> threshold, remainder;
  std::vector<unsigned char> halted;
  for (int lane = 0; lane < lanes; lane++) {
    const int length = 1 + below(120);
    for (int i = 0; i < length; i++) {
      rows.push_back(row_of(static_cast<int>(rows.size()), i, 3, 7, i + 1, (lane * 7) % 64));
      threshold.push_back(0.5f + 0.001f * lane);
      remainder.push_back(0.25f);
      halted.push_back(lane % 5 == 0 || below(4) == 0);
    }
  }
  const int real = static_cast<int>(rows.size());
  rows.resize(capacity, row_of(-1, 0, 1, 0, 1, 0));
  threshold.resize(capacity, 1);
  remainder.resize(capacity, 0);
  halted.resize(capacity, 1);
  Device<Row> d_rows(rows), d_renewed(capacity);
  Device<float> d_threshold(threshold), d_remainder(remainder), remainders(capacity);
  Device<unsigned char> d_halted(halted);
  Device<Tile> tiles(512);
  Device<int32_t> depths(capacity), progress(PROGRESS_HEAD + LANES_MAX);
  Compaction io{d_rows, capacity, d_threshold, reinterpret_cast<bool*>(d_halted.data), d_remainder, d_renewed, capacity, capacity, tiles, 512, capacity, depths, remainders, progress};
  compact_rows(io, 0);
  const auto got = d_rows.read(), renewed = d_renewed.read();
  const auto got_threshold = d_threshold.read();
  const auto got_tiles = tiles.read();
  const auto got_progress = progress.read(), got_depths = depths.read();
  std::map<int, int> counts;
  for (int i = 0; i < real; i++) counts[rows[i].lane] += !halted[i];
  double wrong = 0;
  int kept = 0, renews = 0;
  for (int i = 0; i < real; i++) {
    if (!halted[i]) {
      wrong += got[kept].slot != rows[i].slot || got[kept].step != 4 || got_threshold[kept] != threshold[i];
      kept++;
    } else {
      wrong += got_depths[rows[i].slot] != 3;
      if (counts[rows[i].lane] > 0) wrong += renewed[renews].slot != rows[i].slot || renewed[renews].step != 4, renews++;
    }
  }
  for (int i = kept; i < capacity; i++) wrong += got[i].slot != -1;
  for (int i = renews; i < capacity; i++) wrong += renewed[i].slot != -1;
  wrong += got_progress[0] != kept || got_progress[1] != renews;
  for (int lane = 0; lane < LANES_MAX; lane++) wrong += got_progress[PROGRESS_HEAD + lane] != (counts.count(lane) ? counts[lane] : 0);
  std::vector<int> covered(capacity, 0);
  for (int i = 0; i < got_progress[2]; i++) {
    for (int j = 0; j < got_tiles[i].count; j++) {
      covered[got_tiles[i].first + j]++;
      wrong += got[got_tiles[i].first + j].lane != got[got_tiles[i].first].lane;
    }
  }
  for (int i = 0; i < capacity; i++) wrong += covered[i] != (i < kept);
  for (int i = got_progress[2]; i < 512; i++) wrong += got_tiles[i].count != 0;
  expect("compact_rows", wrong, 0);
  // Of the table that stands, tiles and report are the same but for the renewed rows.
  Device<Tile> tiles_anew(512);
  Device<int32_t> progress_anew(PROGRESS_HEAD + LANES_MAX);
  tile_rows(d_rows, capacity, tiles_anew, 512, progress_anew, 0);
  const auto again = tiles_anew.read();
  const auto reported = progress_anew.read();
  wrong = 0;
  for (int i = 0; i < 512; i++) wrong += again[i].first != got_tiles[i].first || again[i].count != got_tiles[i].count;
  for (int i = 0; i < PROGRESS_HEAD + LANES_MAX; i++) wrong += reported[i] != (i == 1 ? 0 : got_progress[i]);
  expect("tile_rows", wrong, 0);
}

void test_keys_and_values() {
  const int d = 128, cache_rows = 50, count = 20;
  std::vector<Row> rows;
  for (int i = 0; i < count; i++) rows.push_back(row_of(i, 0, 1, 0, 1, 0));
  for (int i = 0; i < count; i++) rows[i].cache_row = 2 * i + 1;
  rows[7] = row_of(-1, -1, -1, -1, -1, -1);
  const auto qkv = floats(static_cast<size_t>(count) * 3 * d);
  Device<Row> d_rows(rows);
  Device<__half> from(halves(qkv)), keys(cache_rows * d), values(cache_rows * d);
  double wrong = 0;
  for (const int parts : {3, 2}) {
    // The same numbers, read as rows of three parts and of two.
    if (parts == 3) write_cache({d_rows, count, nullptr, 0}, from, d, cache_rows, keys, values, 0);
    else write_memory(d_rows, count, from, d, cache_rows, keys, values, 0);
    const auto k = keys.read(), v = values.read();
    for (int row = 0; row < cache_rows; row++) {
      const int i = (row - 1) / 2;
      const bool written = row % 2 == 1 && i < count && i != 7;
      for (int j = 0; j < d; j++) {
        const size_t at = static_cast<size_t>(i) * parts * d + (parts - 2) * d + j;
        wrong += __half2float(k[row * d + j]) != (written ? __half2float(__half(qkv[at])) : 0.0f);
        wrong += __half2float(v[row * d + j]) != (written ? __half2float(__half(qkv[at + d])) : 0.0f);
      }
    }
  }
  expect("write_cache, write_memory", wrong, 0);
}

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

/// Seats in every state, against export/cuda_seats.py said as a loop.
void test_seats() {
  const int count = 300, context = 40, max_steps = 6, eos = 2, d = 512, words = 1000;
  std::vector<int8_t> embedding(words * d);
  for (auto& e : embedding) e = static_cast<int8_t>(below(255) - 127);
  const auto scale = floats(words, 0.01f), states = floats(static_cast<size_t>(2 * count + 1) * d);
  std::vector<Seat> seats(count);
  std::vector<int32_t> depths(count * context), said_ids(2 * count * context, -7), ids(count);
  std::vector<float> said_numbers(2 * count * context, -7), logprob = floats(count), remainder = floats(count);
  std::vector<char> halted(count);
  for (auto& d : depths) d = 1 + below(max_steps);
  for (int i = 0; i < count; i++) {
    const int position = below(30);
    seats[i] = {below(5) > 0, below(4) > 0, position, below(max_steps - 1), below(1000), position, 3 * position, below(3) * 2, 40 * i, 1 + below(40),
                1000 * i, max_steps * 256 + 1, position + 1 + below(4), {}};
    if (seats[i].running == 0) seats[i].planned = 0;
    ids[i] = below(8);
    halted[i] = below(2);
  }
  for (const bool plans : {true, false}) {
    Device<Seat> d_seats(seats);
    Device<int32_t> d_depths(depths), d_said_ids(said_ids), d_ids(ids), index(count * context), seen(2 * count), slots(count);
    Device<float> d_said_numbers(said_numbers), d_logprob(logprob), d_remainder(remainder);
    Device<char> d_halted(halted);
    Device<Row> active(count), renewed(count);
    Device<int8_t> d_embedding(embedding);
    Device<float> d_scale(scale), state(states), accumulator(states), halting(std::vector<float>(2 * count + 1, 0.5f));
    SeatAdvance io{eos, context, plans, reinterpret_cast<bool*>(d_halted.data), d_remainder, d_logprob, d_ids, d_seats, d_depths, d_said_ids, d_said_numbers,
                   active, renewed, index, seen, slots, d_embedding, d_scale, 3.0f, d, state, accumulator, halting};
    advance_seats(io, count, 0);
    ok(cudaGetLastError());
    const auto got = d_seats.read();
    const auto got_depths = d_depths.read(), got_said = d_said_ids.read(), got_index = index.read(), got_seen = seen.read(), got_slots = slots.read();
    const auto got_numbers = d_said_numbers.read(), got_state = state.read(), got_accumulator = accumulator.read(), got_halting = halting.read();
    const auto got_active = active.read(), got_renewed = renewed.read();
    auto want_depths = depths;
    auto want_said = said_ids;
    auto want_numbers = said_numbers;
    double wrong = 0;
    const auto differ = [](const auto& a, const auto& b) { return std::memcmp(&a, &b, sizeof(a)) != 0; };
    for (int i = 0; i < count; i++) {
      Seat s = seats[i];
      if (s.planned) {
        s.steps_here++, s.steps++;
        if (halted[i]) {
          want_said[2 * (i * context + s.said)] = ids[i], want_said[2 * (i * context + s.said) + 1] = s.steps_here;
          want_numbers[2 * (i * context + s.said)] = logprob[i], want_numbers[2 * (i * context + s.said) + 1] = remainder[i];
          want_depths[i * context + s.position] = std::min(s.steps_here + 1, max_steps);
          s.said++;
          if (ids[i] == eos || s.said >= s.tokens_max) {
            s.running = 0;
          } else {
            s.renew = s.steps_here < max_steps ? s.steps_here + 1 : 0;
            s.position++, s.token = ids[i], s.steps_here = 0;
          }
        }
      }
      s.planned = s.running && plans;
      wrong += differ(s, got[i]);
      const Row blank{-1, -1, 0, 1, 0, 1, 0, 255 * 256};
      Row row = blank, again = blank;
      const int p = s.position, t = s.steps_here + 1;
      if (s.running) row = {2 * i + p % 2, s.base + p * max_steps + t - 1, p, t, i * context, p + 1, 0, s.limits};
      if (s.running && t == 1 && s.renew > 0) again = {2 * i + (p + 1) % 2, s.base + (p - 1) * max_steps + s.renew - 1, p - 1, s.renew, 0, p, 0, 255 * 256};
      wrong += differ(row, got_active[i]) + differ(again, got_renewed[i]);
      for (int side = 0; side < 2; side++) {
        const int slot = 2 * i + side;
        const bool starts = s.running && plans && t == 1 && p % 2 == side;
        wrong += got_halting[slot] != (starts ? 0.0f : 0.5f);
        for (int j = 0; j < d; j++) {
          const size_t at = static_cast<size_t>(slot) * d + j;
          wrong += got_state[at] != (starts ? embedding[s.token * d + j] * scale[s.token] * 3.0f : states[at]) || got_accumulator[at] != (starts ? 0.0f : states[at]);
        }
      }
      wrong += got_seen[2 * i] != (s.running ? s.memory_first : 0) || got_seen[2 * i + 1] != (s.running ? s.memory_count : 1) || got_slots[i] != row.slot;
      for (int j = 0; s.running && j <= p; j++)
        wrong += got_index[i * context + j] != (j == p ? row.cache_row : s.base + j * max_steps + std::min(t, want_depths[i * context + j]) - 1);
    }
    wrong += want_depths != got_depths || want_said != got_said || want_numbers != got_numbers;
    expect(plans ? "seats, what goes on" : "seats, settled", wrong, 0);
  }
  std::vector<Seat> arrivals(seats.begin(), seats.begin() + 20);
  std::vector<int32_t> at;
  for (int i = 0; i < 20; i++) at.push_back(i % 5 == 4 ? -1 : 7 * i);
  Device<Seat> d_arrivals(arrivals), into(count);
  Device<int32_t> d_at(at);
  Device<float> thresholds(floats(20)), threshold(count);
  seat_sentences(d_at, d_arrivals, thresholds, 20, count, into, threshold, 0);
  const auto seated = into.read();
  const auto set = threshold.read(), asked = thresholds.read();
  double wrong = 0;
  for (int i = 0; i < 20; i++)
    if (at[i] >= 0) wrong += std::memcmp(&seated[at[i]], &arrivals[i], sizeof(Seat)) != 0 || set[at[i]] != asked[i];
  expect("seating sentences", wrong, 0);
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
  cudaEvent_t began, ended;
  ok(cudaStreamCreate(&stream)), ok(cudaEventCreate(&began)), ok(cudaEventCreate(&ended));
  for (const Shape& s : shapes) {
    Device<__half> x(static_cast<size_t>(most) * s.k), w(static_cast<size_t>(s.k) * s.n), half_bias(s.n);
    Device<float> bias(s.n), residual(static_cast<size_t>(most) * s.n), y(static_cast<size_t>(most) * s.n);
    for (const int tuned : {128, 256, 512, 1024, 4096}) {
      Linear product(s.k, s.n, s.epilogue, s.transposed, tuned);
      std::printf("%s tuned for %d rows:", s.name, tuned);
      for (const int rows : {64, 256, 512, 1024, 2048}) {
        const bool wide = s.epilogue == Epilogue::bias_add || s.epilogue == Epilogue::plain;
        auto run = [&] { product.run(rows, x, w, wide ? static_cast<void*>(bias.data) : half_bias.data, residual, y, stream); };
        run();
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        ok(cudaStreamSynchronize(stream)), ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
        for (int i = 0; i < 20; i++) run();
        ok(cudaStreamEndCapture(stream, &graph)), ok(cudaGraphInstantiate(&executable, graph, 0)), ok(cudaGraphLaunch(executable, stream));
        ok(cudaEventRecord(began, stream));
        for (int i = 0; i < 5; i++) ok(cudaGraphLaunch(executable, stream));
        ok(cudaEventRecord(ended, stream)), ok(cudaEventSynchronize(ended));
        float ms = 0;
        cudaEventElapsedTime(&ms, began, ended);
        std::printf(" %d rows %.1f us", rows, ms * 10);
        ok(cudaGraphExecDestroy(executable)), ok(cudaGraphDestroy(graph));
      }
      std::printf("\n");
    }
  }
}

// Attention over learnt spans.

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
  step();
  step();
  ok(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  step();
  ok(cudaStreamEndCapture(stream, &graph));
  ok(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t began, ended;
  cudaEventCreate(&began);
  cudaEventCreate(&ended);
  auto time = [&](const std::function<void()>& run, int times) {
    for (int i = 0; i < 20; i++) run();
    cudaEventRecord(began, stream);
    for (int i = 0; i < times; i++) run();
    cudaEventRecord(ended, stream);
    ok(cudaEventSynchronize(ended));
    float ms = 0;
    cudaEventElapsedTime(&ms, began, ended);
    return ms / times * 1000;
  };
  const float whole = time([&] { ok(cudaGraphLaunch(executable, stream)); }, 300);
  std::printf("step of %d x %d: %.1f us;", lanes, length, whole);
  if (rows >= 512)
    for (auto& [name, run] : parts) std::printf(" %s %.1f", name, time(run, 200));
  std::printf("\n");
}

void test_start_lanes() {
  const int d = 512, vocabulary = 50, slots = 400, table = 300, before = 7;
  std::vector<int8_t> embedding(vocabulary * d);
  for (auto& e : embedding) e = static_cast<int8_t>(below(255) - 127);
  const auto scale = floats(vocabulary);
  std::vector<LanePiece> pieces;
  std::vector<float> thresholds, want_threshold(table, 9);
  std::vector<Row> want(table, row_of(-1, 0, 1, 0, 1, 0));
  std::vector<int32_t> ids;
  std::vector<int> id_of(slots, -1);
  int base = 3;
  for (int lane = 0; lane < 6; lane++) {
    const int length = std::vector<int>{1, 31, 32, 33, 70, 64}[lane], whole = lane % 2 == 0 ? 0 : length;
    for (int position = 0; position < length; position += LANE_PIECE) {
      const int count = std::min(LANE_PIECE, length - position), start = static_cast<int>(ids.size());
      pieces.push_back({start, before + start, base, position, count, lane, lane * 256 + 1, whole});
      thresholds.push_back(0.1f * lane);
      for (int i = 0; i < count; i++) {
        const int slot = base + position + i;
        want[before + start + i] = {slot, slot, position + i, 1, base, whole == 0 ? position + i + 1 : whole, lane, lane * 256 + 1};
        want_threshold[before + start + i] = 0.1f * lane;
        ids.push_back(below(vocabulary));
        id_of[slot] = ids.back();
      }
    }
    pieces.push_back({9, 9, 9, 9, 0, 9, 9, 9});
    thresholds.push_back(5);
    base += length + 11;
  }
  ids.resize(ids.size() + 40, -1);
  const std::vector<float> filled(static_cast<size_t>(slots) * d, 2);
  Device<int8_t> d_embedding(embedding);
  Device<float> d_scale(scale), d_thresholds(thresholds), threshold(std::vector<float>(table, 9)), state(filled), accumulator(filled), halting(std::vector<float>(slots, 2));
  Device<LanePiece> d_pieces(pieces);
  Device<int32_t> d_ids(ids);
  Device<Row> active(std::vector<Row>(table, row_of(-1, 0, 1, 0, 1, 0)));
  start_lanes({d_pieces, d_thresholds, static_cast<int>(pieces.size()), d_ids, d_embedding, d_scale, 4.0f, d, active, threshold, state, accumulator, halting}, 0);
  const auto got = active.read();
  const auto got_threshold = threshold.read(), got_state = state.read(), got_sum = accumulator.read(), got_halting = halting.read();
  double wrong = 0, error = 0;
  for (int i = 0; i < table; i++) {
    const Row &a = got[i], &b = want[i];
    wrong += a.slot != b.slot || a.cache_row != b.cache_row || a.position != b.position || a.step != b.step || a.first != b.first;
    wrong += a.visible != b.visible || a.lane != b.lane || a.limits != b.limits || got_threshold[i] != want_threshold[i];
  }
  for (int slot = 0; slot < slots; slot++) {
    const int id = id_of[slot];
    wrong += got_halting[slot] != (id < 0 ? 2 : 0);
    for (int j = 0; j < d; j++) {
      const size_t at = static_cast<size_t>(slot) * d + j;
      wrong += got_sum[at] != (id < 0 ? 2 : 0);
      const double state_wanted = id < 0 ? 2 : static_cast<double>(embedding[id * d + j]) * scale[id] * 4;
      error = std::max(error, std::abs(got_state[at] - state_wanted));
    }
  }
  expect("start_lanes: tables, sums", wrong, 0);
  expect("start_lanes: states", error, 1e-4);
}

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

/// Microseconds of `run` in a CUDA graph.
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

/// Beginning `lanes` lanes of `length`, tables in the host's memory as the server's are, beside start_rows with a row a position.
void time_start(int lanes, int length) {
  const int d = 512, vocabulary = 8192, rows = lanes * length;
  std::vector<LanePiece> list;
  std::vector<Row> table;
  for (int lane = 0; lane < lanes; lane++) {
    for (int at = 0; at < length; at += LANE_PIECE)
      list.push_back({lane * length + at, lane * length + at, lane * length, at, std::min(LANE_PIECE, length - at), lane, 2049, 0});
    for (int i = 0; i < length; i++) table.push_back(row_of(lane * length + i, i, 1, lane * length, i + 1, lane));
  }
  const int count = static_cast<int>(list.size());
  LanePiece* pieces;
  Row* host_rows;
  float* thresholds;
  int32_t* ids;
  ok(cudaMallocHost(&pieces, count * sizeof(LanePiece))), ok(cudaMallocHost(&host_rows, rows * sizeof(Row)));
  ok(cudaMallocHost(&thresholds, count * 4)), ok(cudaMallocHost(&ids, rows * 4));
  std::copy(list.begin(), list.end(), pieces), std::copy(table.begin(), table.end(), host_rows);
  std::fill(thresholds, thresholds + count, 0.9f);
  for (int i = 0; i < rows; i++) ids[i] = below(vocabulary);
  Device<int8_t> embedding(static_cast<size_t>(vocabulary) * d);
  Device<float> scale(floats(vocabulary)), threshold(rows), state(static_cast<size_t>(rows) * d), accumulator(static_cast<size_t>(rows) * d), halting(rows);
  Device<Row> active(rows);
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream));
  std::printf("begin %d x %d: start_lanes %.1f, start_rows %.1f us\n", lanes, length, graph_time(stream, [&] {
                start_lanes({pieces, thresholds, count, ids, embedding, scale, 22.6f, d, active, threshold, state, accumulator, halting}, stream);
              }),
              graph_time(stream, [&] { start_rows(host_rows, ids, rows, embedding, scale, 22.6f, d, rows, state, accumulator, halting, stream); }));
  cudaStreamDestroy(stream);
  cudaFreeHost(pieces), cudaFreeHost(host_rows), cudaFreeHost(thresholds), cudaFreeHost(ids);
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

/// Last of all, and alone with the argument "logits".
void output_layer() {
  test_logit_groups(9, 1000, 128);
  test_logit_groups(130, 200, 64);
  test_logit_groups(200, 700, 512);
  test_logit_groups(300, 8192, 512);
  test_logit_groups(2304, 8192, 512);
  for (int rows : {64, 128, 256, 512, 1024, 2304, 2560, 4096}) time_output_layer(rows);
}

int result() {
  std::printf(failures == 0 ? "all kernels agree\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
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

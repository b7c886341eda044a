// Rows and pools (rows.cu).
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "test.h"

namespace ponder::test {

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

}  // namespace ponder::test

// Ragged attention, over tiles and row by row (attention.cu, row_attention.cu).
#include <algorithm>
#include <cmath>

#include "test.h"

namespace ponder::test {

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

}  // namespace ponder::test

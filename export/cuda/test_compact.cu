// The tables of the next step (compact.cu).
#include <map>

#include "test.h"

namespace ponder::test {

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

}  // namespace ponder::test

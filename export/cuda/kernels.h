// The kernels of `ai.adaptive` on CUDA, as functions that launch on a stream. Shapes are row-major. Nothing here allocates or waits, so
// that every call can be captured in a CUDA graph.
//
//   slots: rows of the pools, one a position in work; the last row of each pool is scrap: padding rows read and write it.
//   rows of a step: a table int32 [r, 8], active rows first, then renewed ones (their key and value only).
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace ponder {

/// One row of a step. `slot` -1 marks padding. `limits` holds max_steps * 256 + min_steps.
struct alignas(32) Row {
  int32_t slot, cache_row, position, step;
  int32_t first, visible, lane, limits;
};
static_assert(sizeof(Row) == 32);

/// A run of active rows that see the same keys: rows [first, first + count), count at most TILE_ROWS.
struct alignas(8) Tile {
  int32_t first, count;
};
constexpr int TILE_ROWS = 64;

/// Rows of lanes that `compact_rows` can tell apart, and the head of its progress report before a count per lane.
constexpr int LANES_MAX = 1024;
constexpr int PROGRESS_HEAD = 4;

/// The two parts of a step's rows.
struct Rows {
  const Row* active;
  int active_count;
  const Row* renewed;
  int renewed_count;
};

/// state[slot] = e[ids] * scale[ids] * factor, accumulator[slot] = 0, halting[slot] = 0. d is a multiple of 128, at most 1024.
void start_rows(const Row* rows, const int32_t* ids, int count, const int8_t* embedding, const float* scale, float factor, int d, int slots,
                float* state, float* accumulator, float* halting, cudaStream_t stream);

/// A run of rows of a lane that begins: rows [row, row + count) of the table of active rows, slots base + position on, token ids [start, start + count).
/// Position i sees the keys of its lane up to itself, or `visible` of them where that is not 0. A count of 0 is padding.
struct alignas(32) LanePiece {
  int32_t start, row, base, position;
  int32_t count, lane, limits, visible;
};
static_assert(sizeof(LanePiece) == 32);
constexpr int LANE_PIECE = 32;

/// What start_rows writes, and the rows of the active table and their thresholds: a piece's threshold is that of its rows.
struct StartLanes {
  const LanePiece* pieces;
  const float* thresholds;
  int count;
  const int32_t* ids;
  const int8_t* embedding;
  const float* scale;
  float factor;
  int d;
  Row* active;
  float *threshold, *state, *accumulator, *halting;
};
void start_lanes(const StartLanes& io, cudaStream_t stream);

/// x = state + C(position) + C(step), normalised = LN(x) in half precision, p = sigmoid(w . LN(x) + b), and the halting update (functions.py,
/// HaltingUpdate) of active rows, whose x, weight, halted and remainder are written.
struct AdaptiveInput {
  const float *state, *positions, *steps, *halt, *halt_bias, *threshold;
  float epsilon;
  int d, slots;
  float *halting, *x, *weight, *remainder;
  bool* halted;
  __half* normalised;
};
void adaptive_input(const Rows& rows, const AdaptiveInput& io, cudaStream_t stream);

/// keys[cache_row], values[cache_row] = qkv[row, d:2d], qkv[row, 2d:3d]
void write_cache(const Rows& rows, const __half* qkv, int d, int cache_rows, __half* keys, __half* values, cudaStream_t stream);

/// keys[cache_row], values[cache_row] = kv[row, 0:d], kv[row, d:2d]
void write_memory(const Row* rows, int count, const __half* kv, int d, int memory_rows, __half* keys, __half* values, cudaStream_t stream);

/// Per head: softmax(q k^T) v over keys key_index[first ... first + visible). q lies in rows `stride` apart.
struct Attention {
  const __half* q;
  int stride;
  const __half *keys, *values;
  const Row* rows;
  const Tile* tiles;
  int tile_count;
  const int32_t* key_index;
  /// Decoder memory: where keys begin and how many there are comes from here instead of from the rows, [active, 2].
  const int32_t* seen;
  int heads, d_head;
  __half* out;
};
/// Returns false when the head size has no kernel (32, 64 and 128 have).
bool attention(const Attention& io, cudaStream_t stream);

/// The same for rows that each see keys of their own; tiles are not looked at.
bool row_attention(const Attention& io, int rows, cudaStream_t stream);

/// out = LN(x) without its affine part.
void normalise_rows(const float* x, int rows, int d, float epsilon, __half* out, cudaStream_t stream);

/// state[slot] = z, accumulator[slot] += weight * z
void write_rows(const Row* rows, int count, const float* z, const float* weight, int d, int slots, float* state, float* accumulator,
                cudaStream_t stream);

/// After a step: what runs on stays in `active` in its order, with the next step's number; what halted goes to `renewed`, unless nothing of its
/// lane runs on. Depth and remainder of what halted go to their slots. Both tables are padded up to their extents. `halted` null: nothing
/// halts and no step is counted; only tiles and progress are made anew.
struct Compaction {
  Row* active;
  int active_count;
  float* threshold;
  const bool* halted;
  const float* remainder;
  Row* renewed;
  int renewed_count, renewed_capacity;
  Tile* tiles;
  int tile_capacity;
  int slots;
  int32_t* depths;
  float* remainders;
  /// active rows, renewed rows, tiles, 0, then the active rows of each lane [LANES_MAX]
  int32_t* progress;
};
void compact_rows(const Compaction& io, cudaStream_t stream);

/// Tiles and progress of a table that stands, whose lanes lie side by side: no renewed rows, nothing else is written.
void tile_rows(const Row* active, int active_count, Tile* tiles, int tile_capacity, int32_t* progress, cudaStream_t stream);

/// out = gain * LN(accumulator[slots]) + shift. A slot of -1 is padding.
void read_sums(const float* accumulator, const int32_t* slots, int rows, int d, int pool, float epsilon, const float* gain, const float* shift,
               __half* out, cudaStream_t stream);

/// log softmax(products * scale)[target]: the scales of the vocabulary's rows are left out of the product, whose 8-bit weights half precision holds
/// exactly.
void target_logprob(const float* products, const float* scale, const int32_t* targets, int rows, int vocabulary, float* logprob, cudaStream_t stream);

/// The k largest of log softmax(products * scale), best first; of equal ones the lower id first.
void top_logprobs(const float* products, const float* scale, int rows, int vocabulary, int k, float* best, int32_t* ids, cudaStream_t stream);

/// Of every LOGIT_GROUP words and row: the largest of their logits x w^T * scale, the sum of exponentials relative to it, and its word, of equal ones the
/// lower. x [rows, d], w [vocabulary, d] -> peaks, sums, ids [groups, rows]. d is a multiple of 32.
constexpr int LOGIT_GROUP = 64;
constexpr int logit_groups_of(int vocabulary) { return (vocabulary + LOGIT_GROUP - 1) / LOGIT_GROUP; }
struct LogitGroups {
  const __half *x, *w;
  const float* scale;
  int rows, vocabulary, d;
  float *peaks, *sums;
  int32_t* ids;
};
/// Rows x words of a block: 64 x 64, 128 x 128, 128 x 256. All give the same numbers. `by_rows`: as is fastest on this device, which may be Hopper's path.
enum class LogitTiles { by_rows, small, medium, large };
void logit_groups(const LogitGroups& io, cudaStream_t stream, LogitTiles tiles = LogitTiles::by_rows);

/// Whether a device and a width have the path of `logits_hopper.cu`: compute capability 9.0, d a multiple of 64.
bool hopper_has(const LogitGroups& io);
/// The same by that path, in tiles of 128 rows and 64, 128 or 256 words, 0 for as many as is fastest. All give the same numbers. Throws std::runtime_error.
void hopper_logit_groups(const LogitGroups& io, int words, cudaStream_t stream);

/// log softmax(logits)[target] of such groups, which `logit_groups` has filled.
void grouped_target_logprob(const LogitGroups& io, const int32_t* targets, float* logprob, cudaStream_t stream);

/// The largest of log softmax(logits) and its word, of equal ones the lower.
void grouped_best(const LogitGroups& io, float* best, int32_t* ids, cudaStream_t stream);

/// to[i] = from[slots[i]]
void read_halting(const int32_t* depths, const float* remainders, const int32_t* slots, int rows, int pool, int32_t* depth, float* remainder,
                  cudaStream_t stream);

/// A sentence that decodes greedily without asking the host; columns as of export/cuda_seats.py.
struct alignas(64) Seat {
  int32_t running, planned, position, steps_here, token, said, steps, renew;
  int32_t memory_first, memory_count, base, limits, tokens_max, unused[3];
};
static_assert(sizeof(Seat) == 64);

/// seats[at] = arrivals, threshold[at] = thresholds; at < 0 is padding.
void seat_sentences(const int32_t* at, const Seat* arrivals, const float* thresholds, int count, int seats_all, Seat* seats, float* threshold,
                    cudaStream_t stream);

/// What the step before decided of each seat (halted, remainder, logprob, id of its row), and the tables of the next step, in which row i is seat i
/// or padding; a position that begins has its state made, as start_rows makes it. Without `plans` there is no next step yet: what was decided
/// counts, nothing begins and the tables mean nothing.
struct SeatAdvance {
  int eos, context;
  bool plans;
  const bool* halted;
  const float *remainder, *logprob;
  const int32_t* id;
  Seat* seats;
  /// [seats, context]; said: [seats, context, 2]
  int32_t *key_depths, *said_ids;
  float* said_numbers;
  Row *active, *renewed;
  int32_t *key_index, *seen, *slots;
  const int8_t* embedding;
  const float* scale;
  float factor;
  /// d a multiple of 4
  int d;
  float *state, *accumulator, *halting;
};
void advance_seats(const SeatAdvance& io, int count, cudaStream_t stream);

}  // namespace ponder

// Sentences that decode without asking the host (export/cuda_seats.py): between two steps a block takes each seat from what its step decided to
// the row of its next one.
#include "kernels.h"

namespace ponder {
namespace {

constexpr int THREADS = 128;

__device__ Row blank_row() {
  Row r = {};
  r.slot = -1;
  r.cache_row = -1;
  r.step = 1;
  r.visible = 1;
  r.limits = 255 * 256;
  return r;
}

/// What the step before decided of seat i: its token, and the next position or the end.
__device__ void decide(const SeatAdvance& io, int i, Seat& seat, int max_steps) {
  if (seat.planned == 0) return;
  seat.steps_here += 1;
  seat.steps += 1;
  if (!io.halted[i]) return;
  const int depth = seat.steps_here, token = io.id[i];
  const size_t here = static_cast<size_t>(i) * io.context;
  reinterpret_cast<int2*>(io.said_ids)[here + seat.said] = {token, depth};
  reinterpret_cast<float2*>(io.said_numbers)[here + seat.said] = {io.logprob[i], io.remainder[i]};
  io.key_depths[here + seat.position] = min(depth + 1, max_steps);
  seat.said += 1;
  if (token == io.eos || seat.said >= seat.tokens_max) {
    seat.running = 0;
    return;
  }
  seat.renew = depth < max_steps ? depth + 1 : 0;
  seat.position += 1;
  seat.token = token;
  seat.steps_here = 0;
}

__global__ void __launch_bounds__(THREADS) advance_seats_kernel(SeatAdvance io) {
  __shared__ Seat seat;
  const int i = blockIdx.x;
  // Seats are 64 bytes.
  if (threadIdx.x < sizeof(Seat) / sizeof(int)) reinterpret_cast<int*>(&seat)[threadIdx.x] = reinterpret_cast<const int*>(io.seats + i)[threadIdx.x];
  __syncthreads();
  const int max_steps = seat.limits / 256;
  if (threadIdx.x == 0) {
    decide(io, i, seat, max_steps);
    seat.planned = seat.running > 0 && io.plans ? 1 : 0;
    io.seats[i] = seat;
  }
  __syncthreads();
  const int position = seat.position, step = seat.steps_here + 1, parity = position % 2;
  const bool runs = seat.running > 0, begins = runs && step == 1;
  const int own_row = seat.base + position * max_steps + step - 1;
  const size_t here = static_cast<size_t>(i) * io.context;
  if (threadIdx.x == 0) {
    Row row = blank_row(), renewed = row;
    if (runs) {
      row = {2 * i + parity, own_row, position, step, i * io.context, position + 1, 0, seat.limits};
    }
    if (begins && seat.renew > 0) {
      renewed.slot = 2 * i + 1 - parity;
      renewed.cache_row = seat.base + (position - 1) * max_steps + seat.renew - 1;
      renewed.position = position - 1;
      renewed.step = seat.renew;
      renewed.visible = position;
    }
    io.active[i] = row;
    io.renewed[i] = renewed;
    io.seen[2 * i] = runs ? seat.memory_first : 0;
    io.seen[2 * i + 1] = runs ? seat.memory_count : 1;
    io.slots[i] = row.slot;
  }
  if (begins && io.plans) {
    const size_t slot = 2 * i + parity;
    const int token = max(seat.token, 0);
    const float by = io.scale[token];
    for (int j = threadIdx.x * 4; j < io.d; j += THREADS * 4) {
      const char4 e = *reinterpret_cast<const char4*>(io.embedding + static_cast<size_t>(token) * io.d + j);
      // In the order of start_rows: scale, then factor.
      *reinterpret_cast<float4*>(io.state + slot * io.d + j) =
          make_float4(e.x * by * io.factor, e.y * by * io.factor, e.z * by * io.factor, e.w * by * io.factor);
      *reinterpret_cast<float4*>(io.accumulator + slot * io.d + j) = make_float4(0, 0, 0, 0);
    }
    if (threadIdx.x == 0) io.halting[slot] = 0;
  }
  // A seat's key depths were written by this block, before its barrier. Rows of padding look at the first key.
  for (int j = threadIdx.x; j < io.context; j += THREADS) {
    int row = 0;
    if (runs && j < position) row = seat.base + j * max_steps + min(step, io.key_depths[here + j]) - 1;
    if (runs && j == position) row = own_row;
    if (j <= position) io.key_index[here + j] = row;
  }
}

__global__ void seat_sentences_kernel(const int32_t* at, const Seat* arrivals, const float* thresholds, int count, int seats_all, Seat* seats,
                                      float* threshold) {
  const int i = blockIdx.x * (THREADS / 16) + threadIdx.x / 16, field = threadIdx.x % 16;
  const int to = i < count ? at[i] : -1;
  if (to < 0 || to >= seats_all) return;
  reinterpret_cast<int*>(seats + to)[field] = reinterpret_cast<const int*>(arrivals + i)[field];
  if (field == 0) threshold[to] = thresholds[i];
}

}  // namespace

void seat_sentences(const int32_t* at, const Seat* arrivals, const float* thresholds, int count, int seats_all, Seat* seats, float* threshold,
                    cudaStream_t stream) {
  const int per_block = THREADS / 16;
  if (count > 0)
    seat_sentences_kernel<<<(count + per_block - 1) / per_block, THREADS, 0, stream>>>(at, arrivals, thresholds, count, seats_all, seats, threshold);
}

void advance_seats(const SeatAdvance& io, int count, cudaStream_t stream) {
  if (count > 0) advance_seats_kernel<<<count, THREADS, 0, stream>>>(io);
}

}  // namespace ponder

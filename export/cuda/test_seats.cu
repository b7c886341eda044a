// Sentences that decode without the host (seats.cu).
#include <algorithm>
#include <cstring>

#include "test.h"

namespace ponder::test {

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

}  // namespace ponder::test

"""Sentences that decode without asking the host, as model-local functions: see cuda_functions.py.

A *seat* is a row of int32 [16]: one sentence that is decoded greedily, at one position, of which a step is computed at a time. Columns:

    0 running     1 while the sentence decodes              8, 9  memory_first, memory_count: its keys in memory_key_index
    1 planned     1 if the tables hold a row of it         10     base: its first cache row, see below
    2 position    of the token in work                     11     limits: max_steps * 256 + min_steps
    3 steps_here  done at that position                    12     tokens_max
    4 token       that is read there                       13...  unused
    5 said        tokens decided so far
    6 steps       done at all positions
    7 renew       step of the position before whose key and value are renewed with this one's first step; 0: none

Between two steps each seat goes on by itself: where the position halted, its best token is said and read next, until it is the end of the
sentence or there are tokens_max. Position p at depth t has its key in cache row base + p max_steps + t - 1. Its state is in slot
2 seat + p mod 2, since a position is renewed while its child already runs.
"""

from __future__ import annotations

import math

from functions import DOMAIN

SEAT_FIELDS = 16
SEATS = (
    "running, planned, position, steps_here, token, said, steps, renew, memory_first, memory_count, base, limits, tokens_max, "
    "unused0, unused1, unused2 = Split <axis = 1, num_outputs = 16>"
)
BLANK = "-1, -1, 0, 1, 0, 1, 0, 65280"


def seat_sentences() -> str:
    """seats[at] = arrivals, threshold[at] = thresholds: at [n] int32, -1 for the scrap row behind the seats; arrivals [n, 16],
    thresholds [n], seats [s, 16], threshold [s, 1]."""
    return """
    SeatSentences (at, arrivals, thresholds, seats, threshold) => (seats_out, threshold_out) {
      column = Constant <value_ints = [1]> ()
      at64 = Cast <to = 7> (at)
      place = Unsqueeze (at64, column)
      seats_out = ScatterND (seats, place, arrivals)
      each = Unsqueeze (thresholds, column)
      threshold_out = ScatterND (threshold, place, each)
    }"""


def advance_seats() -> str:
    """What the step before decided of each seat, and the tables of the next; `plans` 0: there is no next, and only what was decided counts.

    seats [r, 16]; key_depths [r, c]: depths that position j has a key for, min(N_j + 1, max_steps); halted, remainder, logprob, id
    [r, 1]: of the step before; said_ids [r, c, 2] = token, depth; said_numbers [r, c, 2] = log-probability, remainder. The tables: active,
    renewed [r, 8], key_index [r c], seen [r, 2], slots [r], in which row i is seat i or padding. A position that begins has its state made
    as StartRows makes it."""
    return f"""
    AdvanceSeats <eos, plans, factor> (seats, key_depths, halted, remainder, logprob, id, said_ids, said_numbers,
        emb, scale, state, accumulator, halting)
      => (seats_out, key_depths_out, said_ids_out, said_numbers_out, active, renewed, key_index, seen, slots, state_out, accumulator_out,
          halting_out) {{
      zero = Constant <value = int32 {{0}}> ()
      one = Constant <value = int32 {{1}}> ()
      two = Constant <value = int32 {{2}}> ()
      radix = Constant <value = int32 {{256}}> ()
      column = Constant <value_ints = [1]> ()
      third = Constant <value_ints = [2]> ()
      along = Constant <value_int = 0> ()
      eos64 = Constant <value_int : int = @eos> ()
      eos_id = Cast <to = 6> (eos64)
      plans64 = Constant <value_int : int = @plans> ()
      there_is_next = Cast <to = 9> (plans64)
      {SEATS} (seats)
      max_steps = Div (limits, radix)
      stepped = Greater (planned, zero)
      stepped32 = Cast <to = 6> (stepped)
      steps_done = Add (steps_here, stepped32)
      steps_all = Add (steps, stepped32)
      stops = And (stepped, halted)
      stops32 = Cast <to = 6> (stops)
      said_now = Add (said, stops32)
      is_end = Equal (id, eos_id)
      is_full = GreaterOrEqual (said_now, tokens_max)
      last = Or (is_end, is_full)
      ends = And (stops, last)
      goes_on = Not (ends)
      has_run = Greater (running, zero)
      runs = And (has_run, goes_on)
      runs32 = Cast <to = 6> (runs)
      moves = And (stops, goes_on)
      moves32 = Cast <to = 6> (moves)
      deeper = Add (steps_done, one)
      has_deeper = Less (steps_done, max_steps)
      renews_later = Where (has_deeper, deeper, zero)
      renew_now = Where (moves, renews_later, renew)
      position_now = Add (position, moves32)
      token_now = Where (moves, id, token)
      steps_now = Where (moves, zero, steps_done)
      plans_row = And (runs, there_is_next)
      planned_now = Cast <to = 6> (plans_row)
      seats_out = Concat <axis = 1> (runs32, planned_now, position_now, steps_now, token_now, said_now, steps_all, renew_now, memory_first,
        memory_count, base, limits, tokens_max, unused0, unused1, unused2)

      context64 = Shape <start = 1, end = 2> (key_depths)
      context = Cast <to = 6> (context64)
      across = Constant <value_int = 1> ()
      no_place = Mul (key_depths, zero)
      each_place = Add (no_place, one)
      places_upto = CumSum (each_place, across)
      places = Sub (places_upto, one)
      here = Equal (places, position)
      decided_here = And (here, stops)
      kept_depths = Min (deeper, max_steps)
      key_depths_out = Where (decided_here, kept_depths, key_depths)
      nth = Equal (places, said)
      says = And (nth, stops)
      says_both = Unsqueeze (says, third)
      ids_pair = Concat <axis = 1> (id, steps_done)
      ids_said = Unsqueeze (ids_pair, column)
      said_ids_out = Where (says_both, ids_said, said_ids)
      numbers_pair = Concat <axis = 1> (logprob, remainder)
      numbers_said = Unsqueeze (numbers_pair, column)
      said_numbers_out = Where (says_both, numbers_said, said_numbers)

      nothing = Mul (running, zero)
      ones = Add (nothing, one)
      upto = CumSum (ones, along)
      seat = Sub (upto, one)
      step = Add (steps_now, one)
      twice = Mul (seat, two)
      parity = Mod (position_now, two)
      slot = Add (twice, parity)
      before = Mul (position_now, max_steps)
      own_rows = Add (base, before)
      own_row = Add (own_rows, steps_now)
      first = Mul (seat, context)
      visible = Add (position_now, one)
      row = Concat <axis = 1> (slot, own_row, position_now, step, first, visible, nothing, limits)
      blank = Constant <value = int32[1, 8] {{{BLANK}}}> ()
      active = Where (runs, row, blank)
      at_first = Equal (steps_now, zero)
      begins = And (runs, at_first)
      starts = And (begins, there_is_next)
      begin = Where (starts, row, blank)
      read = Where (starts, token_now, zero)
      ids = Squeeze (read, column)
      state_out, accumulator_out, halting_out = {DOMAIN}.StartRows <factor : float = @factor>
        (begin, ids, emb, scale, state, accumulator, halting)
      is_due = Greater (renew_now, zero)
      renews = And (begins, is_due)
      position_before = Sub (position_now, one)
      parity_before = Sub (one, parity)
      slot_before = Add (twice, parity_before)
      rows_before = Mul (position_before, max_steps)
      rows_of_before = Add (base, rows_before)
      row_after = Add (rows_of_before, renew_now)
      row_before = Sub (row_after, one)
      any_limits = Constant <value = int32 {{65280}}> ()
      free = Add (nothing, any_limits)
      renewed_row = Concat <axis = 1> (slot_before, row_before, position_before, renew_now, nothing, position_now, nothing, free)
      renewed = Where (renews, renewed_row, blank)

      seen_depth = Min (step, key_depths_out)
      of_place = Mul (places, max_steps)
      place_rows = Add (base, of_place)
      place_ends = Add (place_rows, seen_depth)
      place_row = Sub (place_ends, one)
      is_own = Equal (places, position_now)
      key_row = Where (is_own, own_row, place_row)
      is_seen = LessOrEqual (places, position_now)
      is_key = And (is_seen, runs)
      keys = Where (is_key, key_row, zero)
      all = Constant <value_ints = [-1]> ()
      key_index = Reshape (keys, all)
      memory = Concat <axis = 1> (memory_first, memory_count)
      no_memory = Constant <value = int32[1, 2] {{0, 1}}> ()
      seen = Where (runs, memory, no_memory)
      padding = Constant <value = int32 {{-1}}> ()
      row_slot = Where (runs, slot, padding)
      slots = Squeeze (row_slot, column)
    }}"""


def seat_graph() -> str:
    return f"""
    decoder_seat (int32[n] at, int32[n, {SEAT_FIELDS}] arrivals, float[n] thresholds, int32[seats_all, {SEAT_FIELDS}] seats,
                  float[seats_all, 1] threshold)
       => (int32[seats_all, {SEAT_FIELDS}] seats_out, float[seats_all, 1] threshold_out) {{
      seats_out, threshold_out = {DOMAIN}.SeatSentences (at, arrivals, thresholds, seats, threshold)
    }}"""


def advance_graph(config: dict, name: str, plans: int) -> str:
    d = config["d_model"]
    return f"""
    {name} (int32[rows, {SEAT_FIELDS}] seats, int32[rows, context] key_depths, bool[rows, 1] halted, float[rows, 1] remainder,
            float[rows, 1] logprob, int32[rows, 1] id, int32[rows, context, 2] said_ids, float[rows, context, 2] said_numbers,
            float[pool, {d}] state, float[pool, {d}] accumulator, float[pool, 1] halting)
       => (int32[rows, {SEAT_FIELDS}] seats_out, int32[rows, context] key_depths_out, int32[rows, context, 2] said_ids_out,
           float[rows, context, 2] said_numbers_out, int32[rows, 8] active, int32[rows, 8] renewed, int32[key] key_index,
           int32[rows, 2] seen, int32[rows] slots, float[pool, {d}] state_out, float[pool, {d}] accumulator_out,
           float[pool, 1] halting_out) {{
      seats_out, key_depths_out, said_ids_out, said_numbers_out, active, renewed, key_index, seen, slots, state_out, accumulator_out,
      halting_out =
        {DOMAIN}.AdvanceSeats <eos = {config["eos"]}, plans = {plans}, factor = {math.sqrt(d)!r}>
          (seats, key_depths, halted, remainder, logprob, id, said_ids, said_numbers, "emb", "emb.scale", state, accumulator, halting)
    }}"""

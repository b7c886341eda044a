"""The tables between two steps as model-local functions: which rows run on, which are renewed, and their tiles. See cuda_functions.py.

A run binds a table as input and output, so a body reads it once, into a copy, before it writes it.
"""

from __future__ import annotations

from functions import DOMAIN

LANES_MAX = 1024
TILE_ROWS = 64
PROGRESS = 4 + LANES_MAX

# Splits a row table into columns [r, 1].
COLUMNS = "slots, cache_rows, position, step, first, visible, lane, limits = Split <axis = 1, num_outputs = 8>"


def ordinals(count: str) -> str:
    """`ordinals` = 0, 1 ... count - 1; `one` and `along` stand before it. Not by Range: where an extent is known in advance, its shape
    inference takes it for an int64."""
    return f"""
      each = Expand (one, {count})
      each_upto = CumSum (each, along)
      ordinals = Sub (each_upto, one)"""


def lane_tiles() -> str:
    """Tiles of lanes in order: counts [lanes] rows of each, firsts [lanes] its first row -> tiles_out as tile_table [T, 2], padded with
    (0, 0), and their number [1]. A lane of c rows has ceil(c / 64) tiles."""
    return f"""
    LaneTiles (counts, firsts, tile_table) => (tiles_out, tiles) {{
      zero = Constant <value = int32 {{0}}> ()
      one = Constant <value = int32 {{1}}> ()
      size = Constant <value = int32 {{{TILE_ROWS}}}> ()
      fill = Constant <value = int32 {{{TILE_ROWS - 1}}}> ()
      axis = Constant <value_ints = [0]> ()
      column = Constant <value_ints = [1]> ()
      along = Constant <value_int = 0> ()
      padded = Add (counts, fill)
      own = Div (padded, size)
      upto = CumSum (own, along)
      before = Sub (upto, own)
      tiles = ReduceSum <keepdims = 1> (own, axis)
      capacity64 = Shape <start = 0, end = 1> (tile_table)
      {ordinals("capacity64")}
      ordinal = Unsqueeze (ordinals, column)
      passed = GreaterOrEqual (ordinal, upto)
      passed32 = Cast <to = 6> (passed)
      lanes_before = ReduceSum <keepdims = 1> (passed32, column)
      top = Constant <value = int32 {{{LANES_MAX - 1}}}> ()
      lane = Min (lanes_before, top)
      count = Gather (counts, lane)
      first = Gather (firsts, lane)
      begun = Gather (before, lane)
      nth = Sub (ordinal, begun)
      done = Mul (nth, size)
      at = Add (first, done)
      left = Sub (count, done)
      extent = Min (left, size)
      pair = Concat <axis = 1> (at, extent)
      valid = Less (ordinal, tiles)
      tiles_out = Where (valid, pair, zero)
    }}"""


def _lanes(keeps: str, place: str) -> str:
    """`counts` [lanes]: rows with `keeps` of each lane; `firsts` [lanes]: the least `place` among them. Both columns [a, 1]."""
    return f"""
      lanes = Constant <value = int32 {{{LANES_MAX}}}> ()
      lane_numbers = Range (zero, lanes, one)
      of_lane = Equal (lane, lane_numbers)
      kept_of_lane = And (of_lane, {keeps})
      kept_of_lane32 = Cast <to = 6> (kept_of_lane)
      counts = ReduceSum <keepdims = 0> (kept_of_lane32, start)
      none_of_lane = Constant <value = int32 {{2147483647}}> ()
      places = Where (kept_of_lane, {place}, none_of_lane)
      firsts = ReduceMin <keepdims = 0> (places, start)"""


def tile_rows() -> str:
    """Tiles and progress of a table that stands: active [a, 8], rows of a lane side by side -> tiles_out as tile_table, and
    progress [1028] int32 = active rows, 0, tiles, 0, then the active rows of each lane."""
    return f"""
    TileRows (active, tile_table) => (tiles_out, progress) {{
      zero = Constant <value = int32 {{0}}> ()
      one = Constant <value = int32 {{1}}> ()
      start = Constant <value_ints = [0]> ()
      column = Constant <value_ints = [1]> ()
      {COLUMNS} (active)
      real = GreaterOrEqual (slots, zero)
      along = Constant <value_int = 0> ()
      count64 = Shape <start = 0, end = 1> (active)
      {ordinals("count64")}
      ordinal = Unsqueeze (ordinals, column)
      {_lanes("real", "ordinal")}
      tiles_out, tiles = {DOMAIN}.LaneTiles (counts, firsts, tile_table)
      total = ReduceSum <keepdims = 1> (counts, start)
      nothing = Constant <value = int32[1] {{0}}> ()
      progress = Concat <axis = 0> (total, nothing, tiles, nothing, counts)
    }}"""


def compact_rows() -> str:
    """The tables of the next step. Rows that run on stay in `active` in their order, a step further, their thresholds with them; rows that
    halted go to the renewed table, unless nothing of their lane runs on, and their depth and remainder to their slots.

    active [a, 8], threshold, halted, remainder [a, 1]; renewed [r - a, 8]: of it only the extent counts, up to which the renewed table
    [table, 8] is padded; tile_table [T, 2]; depths, remainders [pool]. `after` is ignored: a pool as WriteRows returned it, so that every
    other reader of the tables has read them before they are written. progress as TileRows, its second number the renewed rows."""
    return f"""
    CompactRows (active, threshold, halted, remainder, renewed, renewed_table, tile_table, depths, remainders, after)
      => (active_out, threshold_out, renewed_out, tiles_out, depths_out, remainders_out, progress) {{
      zero = Constant <value = int32 {{0}}> ()
      one = Constant <value = int32 {{1}}> ()
      minus = Constant <value = int32 {{-1}}> ()
      start = Constant <value_ints = [0]> ()
      column = Constant <value_ints = [1]> ()
      along = Constant <value_int = 0> ()
      after_extent = Shape <start = 0, end = 1> (after)
      after_nothing64 = Mul (after_extent, start)
      after_nothing = Cast <to = 6> (after_nothing64)
      stride = Constant <value = int32[1, 8] {{0, 0, 0, 1, 0, 0, 0, 0}}> ()
      advance = Add (stride, after_nothing)
      next = Add (active, advance)
      {COLUMNS} (next)
      real = GreaterOrEqual (slots, zero)
      runs = Not (halted)
      keeps = And (real, runs)
      halts = And (real, halted)
      keep = Cast <to = 6> (keeps)
      keep_upto = CumSum (keep, along)
      place = Sub (keep_upto, one)
      {_lanes("keeps", "place")}
      count64 = Shape <start = 0, end = 1> (next)
      count = Cast <to = 6> (count64)
      to32 = Where (keeps, place, count)
      to = Cast <to = 7> (to32)
      padding = Constant <value = int32[1, 8] {{-1, -1, 0, 1, 0, 0, 0, 65280}}> ()
      room = Add (count64, column)
      eight = Constant <value_ints = [8]> ()
      rows_extent = Concat <axis = 0> (room, eight)
      rows_empty = Expand (padding, rows_extent)
      rows_filled = ScatterND (rows_empty, to, next)
      active_out = Slice (rows_filled, start, count64)
      whole = Constant <value = float[1, 1] {{1.0}}> ()
      threshold_extent = Concat <axis = 0> (room, column)
      threshold_empty = Expand (whole, threshold_extent)
      threshold_filled = ScatterND (threshold_empty, to, threshold)
      threshold_out = Slice (threshold_filled, start, count64)
      known_lane = Max (lane, zero)
      running = Gather (counts, known_lane)
      worth = Greater (running, zero)
      renews = And (halts, worth)
      renew = Cast <to = 6> (renews)
      renew_upto = CumSum (renew, along)
      renew_place = Sub (renew_upto, one)
      capacity64 = Shape <start = 0, end = 1> (renewed_table)
      capacity = Cast <to = 6> (capacity64)
      fits = Less (renew_place, capacity)
      goes = And (renews, fits)
      renew_to32 = Where (goes, renew_place, capacity)
      renew_to = Cast <to = 7> (renew_to32)
      window64 = Shape <start = 0, end = 1> (renewed)
      window = Cast <to = 6> (window64)
      {ordinals("capacity64")}
      table_ordinal = Unsqueeze (ordinals, column)
      beyond = GreaterOrEqual (table_ordinal, window)
      cleared = Where (beyond, renewed_table, padding)
      cleared_and_spare = Concat <axis = 0> (cleared, padding)
      renewed_filled = ScatterND (cleared_and_spare, renew_to, next)
      renewed_out = Slice (renewed_filled, start, capacity64)
      depth = Sub (step, one)
      depth1 = Squeeze (depth, column)
      remainder1 = Squeeze (remainder, column)
      halted_slot = Where (halts, slots, minus)
      halted_place = Cast <to = 7> (halted_slot)
      depths_out = ScatterND (depths, halted_place, depth1)
      remainders_out = ScatterND (remainders, halted_place, remainder1)
      tiles_out, tiles = {DOMAIN}.LaneTiles (counts, firsts, tile_table)
      kept_total = ReduceSum <keepdims = 1> (counts, start)
      renew1 = Squeeze (renew, column)
      renewed_total = ReduceSum <keepdims = 1> (renew1, start)
      nothing = Constant <value = int32[1] {{0}}> ()
      progress = Concat <axis = 0> (kept_total, renewed_total, tiles, nothing, counts)
    }}"""

"""Attention over tiles as model-local functions, see cuda_functions.py."""

from __future__ import annotations

from functions import DOMAIN


def tiled_attention() -> str:
    """TiledMemoryAttention where a row itself says which keys it sees: key_index[first ... first + visible)."""
    return f"""
    TiledAttention <heads> (q, keys, values, active, tiles, key_index) => (o) {{
      from = Constant <value_ints = [4]> ()
      to = Constant <value_ints = [6]> ()
      axis = Constant <value_ints = [1]> ()
      seen = Slice (active, from, to, axis)
      o = {DOMAIN}.TiledMemoryAttention <heads : int = @heads> (q, keys, values, active, tiles, key_index, seen)
    }}"""


def tiled_memory_attention() -> str:
    """softmax(q k^T) v per head (scale folded into q at export), where row i sees the keys key_index[first_i ... first_i + visible_i).

    q [>= a, >= d] float16, of which the first d columns count; keys, values [pool, d] float16; seen [a, 2] int32 = first, visible; tiles
    [T, 2] int32 = first row and count of a run of rows that see keys from the same `first` on -> o [a, d] float16, 0 in rows of no tile.
    Here a tile is a batch of a padded product: m queries and n keys, the most of any tile."""
    return """
    TiledMemoryAttention <heads> (q, keys, values, active, tiles, key_index, seen) => (o) {
      zero = Constant <value = int32 {0}> ()
      one = Constant <value = int32 {1}> ()
      start = Constant <value_ints = [0]> ()
      axis = Constant <value_ints = [1]> ()
      third = Constant <value_ints = [2]> ()
      last = Constant <value_ints = [-1]> ()
      active_count = Shape <start = 0, end = 1> (active)
      beyond = Cast <to = 6> (active_count)
      tile_first, tile_count = Split <axis = 1, num_outputs = 2> (tiles)
      longest = ReduceMax <keepdims = 0> (tile_count)
      m = Max (longest, one)
      ordinal = Range (zero, m, one)
      inside = Less (ordinal, tile_count)
      tile_row = Add (tile_first, ordinal)
      row = Where (inside, tile_row, zero)
      target = Where (inside, tile_row, beyond)
      row_first, row_visible = Split <axis = 1, num_outputs = 2> (seen)
      known_first = Max (row_first, zero)
      known_visible = Max (row_visible, one)
      first = Squeeze (known_first, axis)
      visible = Squeeze (known_visible, axis)
      shown_rows = Gather (visible, row)
      shown = Where (inside, shown_rows, one)
      starts = Slice (row, start, axis, axis)
      key_first = Gather (first, starts)
      n = ReduceMax <keepdims = 0> (shown)
      key = Range (zero, n, one)
      tile_visible = ReduceMax <keepdims = 1> (shown, axis)
      tile_last = Sub (tile_visible, one)
      near = Min (key, tile_last)
      key_at = Add (key_first, near)
      slot = Gather (key_index, key_at)
      heads1 = Constant <value_int : int = @heads> ()
      heads2 = Unsqueeze (heads1, start)
      same = Constant <value_ints = [0, 0]> ()
      by_head = Concat <axis = 0> (same, heads2, last)
      width = Shape <start = 1, end = 2> (keys)
      queries = Slice (q, start, width, axis)
      gq = Gather (queries, row)
      gk = Gather (keys, slot)
      gv = Gather (values, slot)
      qh = Reshape (gq, by_head)
      kh = Reshape (gk, by_head)
      vh = Reshape (gv, by_head)
      qt = Transpose <perm = [0, 2, 1, 3]> (qh)
      kt = Transpose <perm = [0, 2, 3, 1]> (kh)
      vt = Transpose <perm = [0, 2, 1, 3]> (vh)
      qw = Cast <to = 1> (qt)
      kw = Cast <to = 1> (kt)
      vw = Cast <to = 1> (vt)
      raw = MatMul (qw, kw)
      limit = Unsqueeze (shown, third)
      allowed = Less (key, limit)
      open = Constant <value = float {0.0}> ()
      hidden = Constant <value = float {-1e30}> ()
      mask = Where (allowed, open, hidden)
      bias = Unsqueeze (mask, axis)
      scores = Add (raw, bias)
      weights = Softmax <axis = -1> (scores)
      mixed = MatMul (weights, vw)
      by_query = Transpose <perm = [0, 2, 1, 3]> (mixed)
      joined = Concat <axis = 0> (same, last)
      answers = Reshape (by_query, joined)
      place32 = Unsqueeze (target, third)
      place = Cast <to = 7> (place32)
      room = Add (active_count, axis)
      extent = Concat <axis = 0> (room, width)
      empty = ConstantOfShape (extent)
      filled = ScatterND (empty, place, answers)
      wide = Slice (filled, start, active_count)
      o = Cast <to = 10> (wide)
    }"""


def row_memory_attention() -> str:
    """TiledMemoryAttention where each row sees keys of its own."""
    return f"""
    RowMemoryAttention <heads> (q, keys, values, active, key_index, seen) => (o) {{
      one = Constant <value = int32 {{1}}> ()
      start = Constant <value_ints = [0]> ()
      column = Constant <value_ints = [1]> ()
      along = Constant <value_int = 0> ()
      slot = Slice (active, start, column, column)
      nothing = Sub (slot, slot)
      ones = Add (nothing, one)
      upto = CumSum (ones, along)
      ordinal = Sub (upto, one)
      tiles = Concat <axis = 1> (ordinal, ones)
      o = {DOMAIN}.TiledMemoryAttention <heads : int = @heads> (q, keys, values, active, tiles, key_index, seen)
    }}"""


def row_attention() -> str:
    """RowMemoryAttention where a row itself says which keys it sees: key_index[first ... first + visible)."""
    return f"""
    RowAttention <heads> (q, keys, values, active, key_index) => (o) {{
      from = Constant <value_ints = [4]> ()
      to = Constant <value_ints = [6]> ()
      axis = Constant <value_ints = [1]> ()
      seen = Slice (active, from, to, axis)
      o = {DOMAIN}.RowMemoryAttention <heads : int = @heads> (q, keys, values, active, key_index, seen)
    }}"""

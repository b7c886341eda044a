"""The operators of `cuda/ops.cu`, but those of spans (span_layer.py), as model-local functions: what the native library computes, in ONNX.

A session that registers the library runs its kernels; any other session, on CUDA or on the CPU, runs these bodies. They are the
definition that the kernels are tested against, slower and not free of copies to the host.

Notation: r rows, a active rows, d width, T tiles. A *row table* int32 [r, 8] has the columns slot, cache_row, position, step, first,
visible, lane, limits (= max_steps * 256 + min_steps). Slot -1 marks padding: pools end with a scrap row, which the index -1 hits by itself.
Its other columns may hold -1 too, so they are clipped before they index anything.

Pools and tables are bound as input and output of one run. A body therefore reads each of them before it writes it: where several nodes
read a table, they read a copy.
"""

from __future__ import annotations

import functions
from cuda_attention import row_attention, row_memory_attention, tiled_attention, tiled_memory_attention
from cuda_seats import advance_seats, seat_sentences
from cuda_tables import COLUMNS, compact_rows, lane_tiles, ordinals, tile_rows
from functions import DOMAIN

# Words of a group of logits: kernels.h.
LOGIT_GROUP = 64


def start_rows() -> str:
    """state[slot] = e[ids] scale[ids] factor, accumulator[slot] = 0, halting[slot] = 0. emb int8 [vocabulary, d], scale [vocabulary]."""
    return f"""
    StartRows <factor> (rows, ids, emb, scale, state, accumulator, halting) => (state_out, accumulator_out, halting_out) {{
      none = Constant <value_ints = [0]> ()
      one = Constant <value_ints = [1]> ()
      slots = Slice (rows, none, one, one)
      place = Cast <to = 7> (slots)
      least = Constant <value = int32 {{0}}> ()
      known = Max (ids, least)
      e = {DOMAIN}.QuantizedEmbedding <factor : float = @factor> (known, emb, scale)
      state_out = ScatterND (state, place, e)
      zeros = Sub (e, e)
      accumulator_out = ScatterND (accumulator, place, zeros)
      zero = Slice (zeros, none, one, one)
      halting_out = ScatterND (halting, place, zero)
    }}"""


def start_lanes() -> str:
    """StartRows for lanes that begin, and their rows behind those of the table that run.

    pieces int32 [p, 8], each at most 32 rows of a lane: start, row, base, position, count, lane, limits, visible. Piece j has rows
    [row, row + count) of the table active [t, 8] and of threshold [t, 1], ids [start, start + count) and slots from base + position on.
    A row sees the keys of its lane up to itself, or `visible` of them where that is not 0. A count of 0 is padding."""
    return f"""
    StartLanes <factor> (pieces, thresholds, ids, emb, scale, active, threshold, state, accumulator, halting)
      => (active_out, threshold_out, state_out, accumulator_out, halting_out) {{
      zero = Constant <value = int32 {{0}}> ()
      one = Constant <value = int32 {{1}}> ()
      scrap = Constant <value = int32 {{-1}}> ()
      start = Constant <value_ints = [0]> ()
      column = Constant <value_ints = [1]> ()
      eight = Constant <value_ints = [8]> ()
      along = Constant <value_int = 0> ()
      count64 = Shape <start = 0, end = 1> (ids)
      {ordinals("count64")}
      ordinal = Unsqueeze (ordinals, column)
      starts, rows, bases, positions, counts, lanes, limits, visibles = Split <axis = 1, num_outputs = 8> (pieces)
      starts_across = Transpose <perm = [1, 0]> (starts)
      counts_across = Transpose <perm = [1, 0]> (counts)
      since = Sub (ordinal, starts_across)
      begun = GreaterOrEqual (since, zero)
      goes_on = Less (since, counts_across)
      inside = And (begun, goes_on)
      inside32 = Cast <to = 6> (inside)
      piece = ArgMax <axis = 1, keepdims = 0> (inside32)
      any = ReduceMax <keepdims = 1> (inside32, column)
      real = Greater (any, zero)
      own_start = Gather (starts, piece)
      nth = Sub (ordinal, own_start)
      own_position = Gather (positions, piece)
      position = Add (own_position, nth)
      base = Gather (bases, piece)
      slot = Add (base, position)
      upto = Add (position, one)
      own_visible = Gather (visibles, piece)
      causal = Equal (own_visible, zero)
      visible = Where (causal, upto, own_visible)
      lane = Gather (lanes, piece)
      limit = Gather (limits, piece)
      nothing = Mul (nth, zero)
      step = Add (nothing, one)
      row = Concat <axis = 1> (slot, slot, position, step, base, visible, lane, limit)
      extent64 = Shape <start = 0, end = 1> (active)
      extent = Cast <to = 6> (extent64)
      own_row = Gather (rows, piece)
      at = Add (own_row, nth)
      to32 = Where (real, at, extent)
      to = Cast <to = 7> (to32)
      spare_shape = Concat <axis = 0> (column, eight)
      spare_row = Expand (scrap, spare_shape)
      active_and_spare = Concat <axis = 0> (active, spare_row)
      active_filled = ScatterND (active_and_spare, to, row)
      active_out = Slice (active_filled, start, extent64)
      own_threshold = Gather (thresholds, piece)
      row_threshold = Unsqueeze (own_threshold, column)
      spare_threshold = Constant <value = float[1, 1] {{1.0}}> ()
      threshold_and_spare = Concat <axis = 0> (threshold, spare_threshold)
      threshold_filled = ScatterND (threshold_and_spare, to, row_threshold)
      threshold_out = Slice (threshold_filled, start, extent64)
      slot_or_scrap = Where (real, slot, scrap)
      place = Cast <to = 7> (slot_or_scrap)
      known = Max (ids, zero)
      e = {DOMAIN}.QuantizedEmbedding <factor : float = @factor> (known, emb, scale)
      state_out = ScatterND (state, place, e)
      zeros = Sub (e, e)
      accumulator_out = ScatterND (accumulator, place, zeros)
      nought = Slice (zeros, start, column, column)
      halting_out = ScatterND (halting, place, nought)
    }}"""


def adaptive_input() -> str:
    """x = state + C(position) + C(step), normalised = LN(x) in float16, p = sigmoid(w . LN(x) + b), and HaltingUpdate of active rows.

    active [a, 8], renewed [r - a, 8], threshold [a, 1] -> normalised [r, d] float16, x [a, d], weight, halted, remainder [a, 1]."""
    return f"""
    AdaptiveInput <epsilon> (active, renewed, threshold, state, halting, positions, steps, halt, halt_bias)
      => (normalised, x, weight, halted, remainder, halting_out) {{
      rows = Concat <axis = 0> (active, renewed)
      {COLUMNS} (rows)
      column = Constant <value_ints = [1]> ()
      least = Constant <value = int32 {{0}}> ()
      slot = Squeeze (slots, column)
      known_position = Max (position, least)
      known_step = Max (step, least)
      at = Squeeze (known_position, column)
      t = Squeeze (known_step, column)
      state_rows = Gather (state, slot)
      inputs = {DOMAIN}.CoordinateEmbedding (state_rows, at, t, positions, steps)
      centred, inverse = {DOMAIN}.Normalize <epsilon : float = @epsilon> (inputs)
      unit = Mul (centred, inverse)
      normalised = Cast <to = 10> (unit)
      start = Constant <value_ints = [0]> ()
      count = Shape <start = 0, end = 1> (active)
      x = Slice (inputs, start, count)
      active_centred = Slice (centred, start, count)
      active_inverse = Slice (inverse, start, count)
      p = {DOMAIN}.HaltingProbability (active_centred, active_inverse, halt, halt_bias)
      active_slots = Slice (slots, start, count)
      active_slot = Slice (slot, start, count)
      sum = Gather (halting, active_slot)
      active_step = Slice (step, start, count)
      active_limits = Slice (limits, start, count)
      radix = Constant <value = int32 {{256}}> ()
      max_steps = Div (active_limits, radix)
      min_steps = Mod (active_limits, radix)
      is_last = Equal (active_step, max_steps)
      is_held = Less (active_step, min_steps)
      weight, sum_out, halted, remainder = {DOMAIN}.HaltingUpdate (p, sum, threshold, is_last, is_held)
      place = Cast <to = 7> (active_slots)
      halting_out = ScatterND (halting, place, sum_out)
    }}"""


def _cache_place(rows: str) -> str:
    """`place` [r, 1] int64: the cache row of each row, -1 of padding."""
    return f"""
      {COLUMNS} ({rows})
      least = Constant <value = int32 {{0}}> ()
      scrap = Constant <value = int32 {{-1}}> ()
      real = GreaterOrEqual (slots, least)
      cache_row = Where (real, cache_rows, scrap)
      place = Cast <to = 7> (cache_row)"""


def write_cache() -> str:
    """keys[cache_row], values[cache_row] = qkv[:, d:2d], qkv[:, 2d:]. qkv [r, 3d], pools [cache, d] float16."""
    return f"""
    WriteCache (active, renewed, qkv, keys, values) => (keys_out, values_out) {{
      rows = Concat <axis = 0> (active, renewed)
      {_cache_place("rows")}
      q, k, v = Split <axis = 1, num_outputs = 3> (qkv)
      keys_out = ScatterND (keys, place, k)
      values_out = ScatterND (values, place, v)
    }}"""


def write_memory() -> str:
    """keys[cache_row], values[cache_row] = kv[:, :d], kv[:, d:]. kv [r, 2d], pools [memory, d] float16."""
    return f"""
    WriteMemory (rows, kv, keys, values) => (keys_out, values_out) {{
      {_cache_place("rows")}
      k, v = Split <axis = 1, num_outputs = 2> (kv)
      keys_out = ScatterND (keys, place, k)
      values_out = ScatterND (values, place, v)
    }}"""


# x w with float32 sums and w [k, n] in float16, as tensor cores multiply. Spelled with float32 operands, because ONNX Runtime's float16
# products sum in float16 on the CPU.
_PRODUCT = """
      wide_x = Cast <to = 1> (x)
      wide_w = Cast <to = 1> (w)
      product = MatMul (wide_x, wide_w)
      wide_b = Cast <to = 1> (b)
      sum = Add (product, wide_b)"""


# `rows` changes nothing here: it tells the kernel which row count to be quick at.
def linear() -> str:
    """y = x w + b, rounded to float16 once."""
    return f"""
    Linear <rows: int = 4096> (x, w, b) => (y) {{{_PRODUCT}
      y = Cast <to = 10> (sum)
    }}"""


def linear_relu() -> str:
    """y = max(x w + b, 0), rounded to float16 once."""
    return f"""
    LinearRelu <rows: int = 4096> (x, w, b) => (y) {{{_PRODUCT}
      positive = Relu (sum)
      y = Cast <to = 10> (positive)
    }}"""


def linear_add() -> str:
    """y = residual + (x w + b): x, w float16; b [n], residual [r, n] and y float32, so that a position's state is never rounded."""
    return f"""
    LinearAdd <rows: int = 4096> (x, w, b, residual) => (y) {{{_PRODUCT}
      y = Add (residual, sum)
    }}"""


def logits() -> str:
    """y = x w^T: x [r, d], w [vocabulary, d] float16 -> float32."""
    return """
    Logits (x, w) => (y) {
      wide = Cast <to = 1> (x)
      weights = Cast <to = 1> (w)
      columns = Transpose <perm = [1, 0]> (weights)
      y = MatMul (wide, columns)
    }"""


def normalize_rows() -> str:
    """LN(x) without its affine part, in float16."""
    return f"""
    NormalizeRows <epsilon> (x) => (y) {{
      centred, inverse = {DOMAIN}.Normalize <epsilon : float = @epsilon> (x)
      unit = Mul (centred, inverse)
      y = Cast <to = 10> (unit)
    }}"""


def write_rows() -> str:
    """state[slot] = z, accumulator[slot] += weight z. z [a, d], weight [a, 1]."""
    return """
    WriteRows (active, z, weight, state, accumulator) => (state_out, accumulator_out) {
      none = Constant <value_ints = [0]> ()
      one = Constant <value_ints = [1]> ()
      slots = Slice (active, none, one, one)
      place = Cast <to = 7> (slots)
      share = Mul (weight, z)
      before = GatherND (accumulator, place)
      total = Add (before, share)
      accumulator_out = ScatterND (accumulator, place, total)
      state_out = ScatterND (state, place, z)
    }"""


def read_normalized() -> str:
    """LN(accumulator[slots]) without its affine part, in float16. slots [r] int32."""
    return f"""
    ReadNormalized <epsilon> (accumulator, slots) => (y) {{
      sums = Gather (accumulator, slots)
      y = {DOMAIN}.NormalizeRows <epsilon : float = @epsilon> (sums)
    }}"""


def read_sums() -> str:
    """gain LN(accumulator[slots]) + shift, in float16."""
    return f"""
    ReadSums <epsilon> (accumulator, slots, gain, shift) => (y) {{
      sums = Gather (accumulator, slots)
      centred, inverse = {DOMAIN}.Normalize <epsilon : float = @epsilon> (sums)
      unit = Mul (centred, inverse)
      gained = Mul (unit, gain)
      wide = Add (gained, shift)
      y = Cast <to = 10> (wide)
    }}"""


def target_log_prob() -> str:
    """log softmax(products * scale)[target]: products [r, vocabulary], scale [vocabulary], targets [r] int32 -> [r]."""
    return """
    TargetLogProb (products, scale, targets) => (logprob) {
      logits = Mul (products, scale)
      logprobs = LogSoftmax <axis = -1> (logits)
      last = Constant <value_ints = [-1]> ()
      column = Unsqueeze (targets, last)
      chosen = GatherElements <axis = 1> (logprobs, column)
      logprob = Squeeze (chosen, last)
    }"""


def top_log_probs() -> str:
    """The k best of log softmax(products * scale), best first, of equal ones the lower id first: [r, k], ids int32 [r, k]."""
    return """
    TopLogProbs (products, scale, k) => (best, ids) {
      logits = Mul (products, scale)
      logprobs = LogSoftmax <axis = -1> (logits)
      best, ids64 = TopK <axis = -1, largest = 1, sorted = 1> (logprobs, k)
      ids = Cast <to = 6> (ids64)
    }"""


def logit_groups() -> str:
    """Of every 64 words and row: the largest of their logits x w^T * scale, the sum of exponentials relative to it, and its word, of equal
    ones the lower. x [r, d], w [vocabulary, d] float16, scale [vocabulary] -> peaks, sums, ids int32 [groups, r]: a kernel need not write
    the logits."""
    return f"""
    LogitGroups (x, w, scale) => (peaks, sums, ids) {{
      products = {DOMAIN}.Logits (x, w)
      logits = Mul (products, scale)
      size = Constant <value_ints = [{LOGIT_GROUP}]> ()
      fill = Constant <value_ints = [{LOGIT_GROUP - 1}]> ()
      words = Shape <start = 1, end = 2> (logits)
      upto = Add (words, fill)
      groups = Div (upto, size)
      room = Mul (groups, size)
      missing = Sub (room, words)
      before = Constant <value_ints = [0, 0, 0]> ()
      pads = Concat <axis = 0> (before, missing)
      nothing = Constant <value = float {{-3.0e38}}> ()
      padded = Pad (logits, pads, nothing)
      rows = Constant <value_ints = [0]> ()
      shape = Concat <axis = 0> (rows, groups, size)
      grouped = Reshape (padded, shape)
      last = Constant <value_ints = [2]> ()
      peak = ReduceMax <keepdims = 1> (grouped, last)
      below = Sub (grouped, peak)
      shares = Exp (below)
      sum = ReduceSum <keepdims = 0> (shares, last)
      sums = Transpose <perm = [1, 0]> (sum)
      peak_of_row = Squeeze (peak, last)
      peaks = Transpose <perm = [1, 0]> (peak_of_row)
      nth64 = ArgMax <axis = 2, keepdims = 0> (grouped)
      nth = Transpose <perm = [1, 0]> (nth64)
      nth32 = Cast <to = 6> (nth)
      size32 = Constant <value = int32 {{{LOGIT_GROUP}}}> ()
      one = Constant <value = int32 {{1}}> ()
      along = Constant <value_int = 0> ()
      {ordinals("groups")}
      firsts = Mul (ordinals, size32)
      axis = Constant <value_ints = [1]> ()
      first = Unsqueeze (firsts, axis)
      ids = Add (first, nth32)
    }}"""


_SUM_OF_GROUPS = """
      groups = Constant <value_ints = [0]> ()
      peak = ReduceMax <keepdims = 1> (peaks, groups)
      below = Sub (peaks, peak)
      share = Exp (below)
      shares = Mul (share, sums)
      total = ReduceSum <keepdims = 1> (shares, groups)
      log_total = Log (total)
      norm = Add (peak, log_total)"""


def grouped_target_log_prob() -> str:
    """log softmax(x w^T * scale)[target] from LogitGroups' peaks and sums; the target's logit is computed once more. targets int32 [r]
    -> [r]."""
    return f"""
    GroupedTargetLogProb (peaks, sums, x, w, scale, targets) => (logprob) {{{_SUM_OF_GROUPS}
      columns = Gather (w, targets)
      wide = Cast <to = 1> (x)
      wide_columns = Cast <to = 1> (columns)
      products = Mul (wide, wide_columns)
      axis = Constant <value_ints = [1]> ()
      product = ReduceSum <keepdims = 0> (products, axis)
      factor = Gather (scale, targets)
      logit = Mul (product, factor)
      norms = Squeeze (norm, groups)
      logprob = Sub (logit, norms)
    }}"""


def grouped_best() -> str:
    """The largest of log softmax and its word, of equal ones the lower, from LogitGroups' three: [r, 1], ids int32 [r, 1]. `scale` tells
    how many words there are."""
    return f"""
    GroupedBest (peaks, sums, words, scale) => (best, ids) {{{_SUM_OF_GROUPS}
      logprob = Sub (peak, norm)
      best = Transpose <perm = [1, 0]> (logprob)
      group = ArgMax <axis = 0, keepdims = 1> (peaks)
      word = GatherElements <axis = 0> (words, group)
      ids = Transpose <perm = [1, 0]> (word)
    }}"""


def read_halting() -> str:
    """depth, remainder = depths[slots], remainders[slots]."""
    return """
    ReadHalting (depths, remainders, slots) => (depth, remainder) {
      depth = Gather (depths, slots)
      remainder = Gather (remainders, slots)
    }"""


def all_functions() -> tuple[str, ...]:
    """Those that stand for a kernel, and those that they call."""
    return (
        functions.quantized_embedding(), functions.coordinate_embedding(), functions.normalize(), functions.halting_probability(),
        functions.halting_update(), start_rows(), start_lanes(), adaptive_input(), write_cache(), write_memory(), tiled_attention(),
        tiled_memory_attention(), linear(), linear_relu(), linear_add(), logits(), normalize_rows(), write_rows(), lane_tiles(),
        tile_rows(), compact_rows(), read_normalized(), read_sums(), target_log_prob(), top_log_probs(), logit_groups(),
        grouped_target_log_prob(), grouped_best(), read_halting(),
        row_attention(), row_memory_attention(), seat_sentences(), advance_seats(),
    )  # fmt: skip

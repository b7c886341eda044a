"""The custom operators of the exported graphs: model-local functions in the domain `ai.adaptive`.

Each is written in ONNX's own text form, beside its formula and source. ONNX Runtime inlines them on every provider, so a
package needs no native library; a kernel registered under the same name may replace one, and is tested against it.

Notation: r rows (positions of any lanes, in any order), d width, h heads, s slots (rows of the pools), a active rows.
"""

from __future__ import annotations

import onnx
from onnx import parser

DOMAIN = "ai.adaptive"
OPSET = 21

_HEADER = f'<opset_import: ["" : {OPSET}, "{DOMAIN}" : 1, "com.microsoft" : 1], domain: "{DOMAIN}">\n'


def coordinate_embedding() -> str:
    """x = state + C(position) + C(t), added anew at every step (Universal Transformer, arXiv 1807.03819, eq. 6 and 7).

    state [r, d]; position [r], step [r] int32; tables [positions, d], [steps + 1, d] hold C."""
    return """
    CoordinateEmbedding (state, position, step, positions, steps) => (x) {
      p = Gather (positions, position)
      t = Gather (steps, step)
      c = Add (p, t)
      x = Add (state, c)
    }"""


def normalize() -> str:
    """Layer normalisation without its affine part, in two factors: LN(x) = centred * inverse (arXiv 1607.06450).

    x [r, d] -> centred [r, d] = x - mean(x), inverse [r, 1] = 1 / sqrt(mean(centred^2) + eps). The affine part is folded into the
    next matrix at export. Spelled out because ONNX Runtime's LayerNormalization runs one element at a time on the CPU
    (1.5 ms for 512 x 512; this form takes 0.5), and because a row's quantisation does not need the multiplication at all."""
    return """
    Normalize <epsilon> (x) => (centred, inverse) {
      axis = Constant <value_ints = [1]> ()
      mean = ReduceMean <keepdims = 1> (x, axis)
      centred = Sub (x, mean)
      square = Mul (centred, centred)
      variance = ReduceMean <keepdims = 1> (square, axis)
      eps = Constant <value_float : float = @epsilon> ()
      shifted = Add (variance, eps)
      deviation = Sqrt (shifted)
      inverse = Reciprocal (deviation)
    }"""


def row_quantize() -> str:
    """Symmetric 8-bit quantisation of each row: q = 128 + round(127 x / max|x|), scale = max|x| / 127; x ~ (q - 128) scale.

    x [r, d] -> q uint8 [r, d], scale [r, 1]. One scale a row, never one a tensor: a row's result cannot depend on its batch."""
    return """
    RowQuantize (x) => (q, scale) {
      axis = Constant <value_ints = [1]> ()
      high = ReduceMax <keepdims = 1> (x, axis)
      low = ReduceMin <keepdims = 1> (x, axis)
      under = Neg (low)
      tiny = Constant <value = float {1e-20}> ()
      peak = Max (high, under, tiny)
      limit = Constant <value = float {127.0}> ()
      scale = Div (peak, limit)
      factor = Div (limit, peak)
      scaled = Mul (x, factor)
      one = Constant <value = float {1.0}> ()
      zero = Constant <value = uint8 {128}> ()
      q = QuantizeLinear (scaled, one, zero)
    }"""


def row_quantize_relu() -> str:
    """The same of relu(x): q = round(255 max(x, 0) / max(x)), scale = max(x) / 255; relu(x) ~ q scale.

    The lower saturation of QuantizeLinear is the ReLU. x [r, d] -> q uint8 [r, d], scale [r, 1]."""
    return """
    RowQuantizeRelu (x) => (q, scale) {
      axis = Constant <value_ints = [1]> ()
      high = ReduceMax <keepdims = 1> (x, axis)
      tiny = Constant <value = float {1e-20}> ()
      peak = Max (high, tiny)
      limit = Constant <value = float {255.0}> ()
      scale = Div (peak, limit)
      factor = Div (limit, peak)
      scaled = Mul (x, factor)
      one = Constant <value = float {1.0}> ()
      zero = Constant <value = uint8 {0}> ()
      q = QuantizeLinear (scaled, one, zero)
    }"""


def row_quantized_matmul() -> str:
    """y = scale * ((q - zero) W) * w_scale: an 8-bit product, summed in 32-bit integers, hence exact and batch-invariant.

    q uint8 [r, k], scale [r, 1], zero uint8 scalar (128 after RowQuantize, 0 after RowQuantizeRelu), w int8 [k, n], w_scale [n] ->
    y [r, n]. MatMulIntegerToFloat multiplies by w_scale while a tile is in cache; its own input scale is per tensor, so it is 1."""
    return """
    RowQuantizedMatMul (q, scale, zero, w, w_scale) => (y) {
      one = Constant <value = float {1.0}> ()
      unscaled = com.microsoft.MatMulIntegerToFloat (q, w, one, w_scale, zero)
      y = Mul (unscaled, scale)
    }"""


def dequantized_matmul() -> str:
    """y = x (W * w_scale) in float32, the arithmetic of the parity variant: x [r, k], w int8 [k, n], w_scale [n] -> y [r, n]."""
    return """
    DequantizedMatMul (x, w, w_scale) => (y) {
      wide = Cast <to = 1> (w)
      weights = Mul (wide, w_scale)
      y = MatMul (x, weights)
    }"""


def quantized_embedding() -> str:
    """e = W[ids] * w_scale[ids] * factor; ids [r] int32, w int8 [vocabulary, d], w_scale [vocabulary] -> e [r, d]."""
    return """
    QuantizedEmbedding <factor> (ids, w, w_scale) => (e) {
      narrow = Gather (w, ids)
      wide = Cast <to = 1> (narrow)
      scale = Gather (w_scale, ids)
      last = Constant <value_ints = [-1]> ()
      column = Unsqueeze (scale, last)
      rows = Mul (wide, column)
      f = Constant <value_float : float = @factor> ()
      e = Mul (rows, f)
    }"""


def halting_probability() -> str:
    """p = sigmoid(w . LN(x) + b) (ACT, Graves 2016, arXiv 1603.08983, eq. 5), in float32: centred [r, d], inverse [r, 1],
    w [1, d], b [1] -> p [r, 1]. A sum over the row instead of a matrix product, whose order of summation depends on r."""
    return """
    HaltingProbability (centred, inverse, w, b) => (p) {
      axis = Constant <value_ints = [1]> ()
      products = Mul (centred, w)
      dot = ReduceSum <keepdims = 1> (products, axis)
      normalised = Mul (dot, inverse)
      logit = Add (normalised, b)
      p = Sigmoid (logit)
    }"""


def halting_update() -> str:
    """One step of the halting sum H for rows that run (Universal Transformer, appendix C; Graves 2016, eq. 6 to 9).

    hold (t < min_steps): p is clipped to threshold - H and nothing halts. last (t = max_steps): everything halts.
    halted = last or (not hold and H + p > threshold); remainder = 1 - H where halted, else 0; weight = remainder where halted,
    else p; H' = H + weight. All [a, 1] float32; hold, last bool."""
    return """
    HaltingUpdate (p, sum, threshold, last, hold) => (weight, sum_out, halted, remainder) {
      one = Constant <value = float {1.0}> ()
      none = Constant <value = float {0.0}> ()
      room = Sub (threshold, sum)
      clipped = Min (p, room)
      step = Where (hold, clipped, p)
      next = Add (sum, step)
      beyond = Greater (next, threshold)
      free = Not (hold)
      passed = And (beyond, free)
      halted = Or (passed, last)
      missing = Sub (one, sum)
      remainder = Where (halted, missing, none)
      weight = Where (halted, missing, step)
      sum_out = Where (halted, one, next)
    }"""


def ragged_attention(heads: int, d_head: int, keys_max: int) -> str:
    """softmax(q k^T) v per head over lanes of any lengths (scale folded into q at export), without a padded batch.

    A *unit* is a run of queries of one lane with the keys they may see. Units of like shape form a *group* of u units, m queries
    and n keys; the loop runs once a group. q [a, h*dh]; k, v [s, h*dh]; query_index [sum u*m] rows of q; key_index [sum u*n]
    slots, in order of position; visible [sum u*m]: a query sees the first so many keys of its unit. row [a]: where each query's
    answer lies in the concatenated groups -> o [a, h*dh].

    groups [g, 17] int64 holds each group's shapes ready for use, so that the loop computes none:
    u 1 m | u 1 n | u 1 m 1 | u*m h*dh | first and end in query_index | first and end in key_index | n.
    n must be a function of the lane alone (padding changes the order of the softmax's sum): then an answer does not depend on
    the batch."""
    numbers = ", ".join(map(str, range(heads)))
    ordinals = ", ".join(map(str, range(keys_max)))
    return f"""
    RaggedAttention (q, k, v, groups, query_index, visible, key_index, row) => (o) {{
      split = Constant <value = int64[2] {{-1, {d_head}}}> ()
      qh = Reshape (q, split)
      kh = Reshape (k, split)
      vh = Reshape (v, split)
      head = Constant <value = int32[1, {heads}, 1] {{{numbers}}}> ()
      heads = Constant <value = int32 {{{heads}}}> ()
      query_base = Mul (query_index, heads)
      key_base = Mul (key_index, heads)
      ordinals = Constant <value = int32[{keys_max}] {{{ordinals}}}> ()
      from = Constant <value = int64[1] {{0}}> ()
      parts = Constant <value = int64[9] {{3, 3, 4, 2, 1, 1, 1, 1, 1}}> ()
      shown = Constant <value = float {{0.0}}> ()
      hidden = Constant <value = float {{-1e30}}> ()
      go = Constant <value = bool {{1}}> ()
      count1 = Shape <start = 0, end = 1> (groups)
      count = Squeeze (count1)
      nothing = SequenceEmpty <dtype = 1> ()
      answers = Loop (count, go, nothing) <body = group
        (int64 i, bool go_in, seq(float[x, y]) before) => (bool go_out, seq(float[x, y]) after) {{
        go_out = Identity (go_in)
        shapes = Gather (groups, i)
        query_shape, key_shape, visible_shape, answer_shape, query, query_end, key, key_end, n = Split <axis = 0> (shapes, parts)
        query_flat = Slice (query_base, query, query_end)
        query_rows = Reshape (query_flat, query_shape)
        query_heads = Add (query_rows, head)
        key_flat = Slice (key_base, key, key_end)
        key_rows = Reshape (key_flat, key_shape)
        key_heads = Add (key_rows, head)
        visible_flat = Slice (visible, query, query_end)
        seen = Reshape (visible_flat, visible_shape)
        ordinal = Slice (ordinals, from, n)
        allowed = Less (ordinal, seen)
        bias = Where (allowed, shown, hidden)
        gq = Gather (qh, query_heads)
        gk = Gather (kh, key_heads)
        gv = Gather (vh, key_heads)
        gkt = Transpose <perm = [0, 1, 3, 2]> (gk)
        raw = MatMul (gq, gkt)
        scores = Add (raw, bias)
        weights = Softmax <axis = -1> (scores)
        mixed = MatMul (weights, gv)
        by_query = Transpose <perm = [0, 2, 1, 3]> (mixed)
        answer = Reshape (by_query, answer_shape)
        after = SequenceInsert (before, answer)
      }}>
      stacked = ConcatFromSequence <axis = 0> (answers)
      o = Gather (stacked, row)
    }}"""


def parse(*texts: str) -> list[onnx.FunctionProto]:
    return [parser.parse_function(_HEADER + text.strip()) for text in texts]

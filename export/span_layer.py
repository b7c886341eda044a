"""The operators of `cuda/span.cu` and `cuda/span_rows.cu`, each of a whole layer, as model-local functions: for the graphs of float32.

A layer has n groups of heads (adaptive_span_onnx.py), and an operator as many pools and windows; its name says how many. Up to
SPAN_GROUPS_MAX of cuda/span.h have a kernel. One launch then serves heads of all spans, where one a group would take as long as its
widest head does, however few units there are.

Notation: u units of m tokens, r = u m rows, d width, s keys before a unit, S positions of the table.
"""

from __future__ import annotations

import functions


def pools_of(groups: int) -> str:
    return ", ".join(f"keys{j}, values{j}, window{j}" for j in range(groups))


def parts(name: str, groups: int) -> str:
    return ", ".join(f"{name}{j}" for j in range(groups))


def write_spans(groups: int, d: int, d_head: int) -> str:
    """Keys and values of a block go where each group's window has its last m rows.

    qkv [r, 3 d], heads in the order of the groups; keys, values [pool, heads * dh], window [u, s + m] int32 of each group -> the pools."""
    lines = [
        "heads_of = Constant <value_ints : ints = @heads> ()",
        f"head_size = Constant <value_ints = [{d_head}]> ()",
        "columns = Mul (heads_of, head_size)",
        f"thirds = Constant <value_ints = [{d}, {d}, {d}]> ()",
        "q, k, v = Split <axis = 1> (qkv, thirds)",
        f"{parts('k', groups)} = Split <axis = 1> (k, columns)",
        f"{parts('v', groups)} = Split <axis = 1> (v, columns)",
        "last = Constant <value_ints = [-1]> ()",
        "axis1 = Constant <value_ints = [1]> ()",
        "rows = Shape <start = 0, end = 1> (qkv)",
        "units = Shape <start = 0, end = 1> (window0)",
        "length = Div (rows, units)",
    ]
    for j in range(groups):
        lines += [
            f"full{j} = Shape <start = 1, end = 2> (window{j})",
            f"before{j} = Sub (full{j}, length)",
            f"own{j} = Slice (window{j}, before{j}, full{j}, axis1)",
            f"flat{j} = Reshape (own{j}, last)",
            f"wide{j} = Cast <to = 7> (flat{j})",
            f"place{j} = Unsqueeze (wide{j}, last)",
            f"keys_out{j} = ScatterND (keys{j}, place{j}, k{j})",
            f"values_out{j} = ScatterND (values{j}, place{j}, v{j})",
        ]
    written = ", ".join(f"keys_out{j}, values_out{j}" for j in range(groups))
    body = "\n      ".join(lines)
    return f"""
    WriteSpans{groups} <heads> (qkv, {pools_of(groups)}) => ({written}) {{
      {body}
    }}"""


def span_heads(groups: int, d: int, d_head: int, dynamic: bool) -> str:
    """SpanAttention under SpanMask for every head of a layer, rows to rows.

    qkv [r, 3 d]; z [heads], or [r, heads] of dynamic spans; cap [u, 1, 1, 1]; pe [dh, S]; distance [S] = distance - 1; then of each
    group keys, values and window as for WriteSpans, s <= S of them before a unit -> o [r, d]."""
    ai = functions.DOMAIN
    lines = [
        "heads_of = Constant <value_ints : ints = @heads> ()",
        f"head_size = Constant <value_ints = [{d_head}]> ()",
        "columns = Mul (heads_of, head_size)",
        "last = Constant <value_ints = [-1]> ()",
        "from_start = Constant <value_ints = [0]> ()",
        "axis1 = Constant <value_ints = [1]> ()",
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        f"width = Constant <value_ints = [{d}]> ()",
        "q = Slice (qkv, from_start, width, axis1)",
        f"{parts('q', groups)} = Split <axis = 1> (q, columns)",
        f"{parts('z', groups)} = Split <axis = {int(dynamic)}> (z, heads_of)",
        "rows = Shape <start = 0, end = 1> (qkv)",
        "units = Shape <start = 0, end = 1> (cap)",
        "length = Div (rows, units)",
        "end = Shape <start = 1, end = 2> (pe)",
    ]
    for j in range(groups):
        lines += [
            f"from{j} = Constant <value_ints = [{j}]> ()",
            f"to{j} = Constant <value_ints = [{j + 1}]> ()",
            f"h{j} = Slice (heads_of, from{j}, to{j})",
            f"split{j} = Concat <axis = 0> (units, length, h{j}, head_size)",
            f"split_q{j} = Reshape (q{j}, split{j})",
            f"heads_q{j} = Transpose <perm = [0, 2, 1, 3]> (split_q{j})",
            f"full{j} = Shape <start = 1, end = 2> (window{j})",
            f"before{j} = Sub (full{j}, length)",
            f"far{j} = Sub (end, before{j})",
            f"pe{j} = Slice (pe, far{j}, end, axis1)",
            f"distance{j} = Slice (distance, far{j}, end)",
            f"count{j} = Squeeze (h{j})",
            f"numbers{j} = Range (zero, count{j}, one)",
            f"narrow{j} = Cast <to = 6> (numbers{j})",
            f"number_shape{j} = Concat <axis = 0> (axis1, h{j}, axis1)",
            f"head{j} = Reshape (narrow{j}, number_shape{j})",
        ]
        if dynamic:
            lines += [
                f"z_split{j} = Concat <axis = 0> (units, length, h{j}, axis1)",
                f"z_rows{j} = Reshape (z{j}, z_split{j})",
                f"z_heads{j} = Transpose <perm = [0, 2, 1, 3]> (z_rows{j})",
            ]
        else:
            lines += [f"z_split{j} = Concat <axis = 0> (axis1, h{j}, axis1, axis1)", f"z_heads{j} = Reshape (z{j}, z_split{j})"]
        lines += [
            f"bias{j} = {ai}.SpanMask <ramp : float = @ramp> (z_heads{j}, cap, distance{j})",
            f"o{j} = {ai}.SpanAttention (heads_q{j}, keys{j}, values{j}, window{j}, head{j}, pe{j}, bias{j})",
        ]
    body = "\n      ".join(lines)
    return f"""
    SpanHeads{groups} <heads, ramp> (qkv, z, cap, pe, distance, {pools_of(groups)}) => (o) {{
      {body}
      wide_o = Concat <axis = 2> ({parts("o", groups)})
      o_shape = Concat <axis = 0> (last, width)
      o = Reshape (wide_o, o_shape)
    }}"""


def add_normalize() -> str:
    """gain LN(x + (y + bias)) + shift; x, y [r, d], the others [d]."""
    return f"""
    AddNormalize <epsilon> (x, y, bias, gain, shift) => (out) {{
      biased = Add (y, bias)
      sum = Add (x, biased)
      centred, inverse = {functions.DOMAIN}.Normalize <epsilon : float = @epsilon> (sum)
      unit = Mul (centred, inverse)
      gained = Mul (unit, gain)
      out = Add (gained, shift)
    }}"""


def add_relu() -> str:
    """max(x + bias, 0); x [r, n], bias [n]."""
    return """
    AddRelu (x, bias) => (y) {
      sum = Add (x, bias)
      y = Relu (sum)
    }"""

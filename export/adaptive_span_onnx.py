"""The graph of an adaptive-span language model: a block of m tokens of u lanes, keys and values kept between blocks.

Each head attends over its own span. The heads of a layer are sorted by span and cut into groups; a group keeps keys and
values for its widest head only, where the published code keeps the layer's widest for all. Keys and values live in a
ring of s + m rows a lane; row 0 of every pool is zero for ever and stands for the start-up padding, whose zero keys take part in
the softmax (W_k and W_v have no bias, so a zero layer input has a zero key).

    step   ids [u, m] -> log-probability of targets [u, m], the k best; writes m rows of every ring
"""

from __future__ import annotations

import math

import onnx
import torch
from torch import Tensor

import functions
import span_layer
from adaptive_span import LAYER_NORM_EPS, MASK, SpanShape, spans
from quantise import dequantise, quantise
from universal_transformer_onnx import Float32, Int8, Precision, build, dequantised, quantised

# Two heads share a group unless the wider span is more than half as long again: a group costs some 25 operators a layer and
# block, a key 128 multiplications a query.
GROUP_RATIO = 1.5
SPAN_MULTIPLE = 16


def span_mask() -> str:
    """ln m_z(x), m_z(x) = clamp((R + min(z, cap) - x) / R, 0, 1) (Sukhbaatar et al. 2019, eq. 5), -1e30 where m is 0: added to the
    scores, since m exp(s) = exp(s + ln m). z [u or 1, h, m or 1, 1], cap [u, 1, 1, 1] keys, distance [s] = distance - 1 ->
    bias [u, h, m or 1, s]."""
    return """
    SpanMask <ramp> (z, cap, distance) => (bias) {
      span = Min (z, cap)
      r = Constant <value_float : float = @ramp> ()
      reach = Add (span, r)
      left = Sub (reach, distance)
      share = Div (left, r)
      none = Constant <value = float {0.0}> ()
      all = Constant <value = float {1.0}> ()
      mask = Clip (share, none, all)
      seen = Greater (mask, none)
      ln = Log (mask)
      hidden = Constant <value = float {-1e30}> ()
      bias = Where (seen, ln, hidden)
    }"""


def span_attention(d_head: int) -> str:
    """softmax over the s keys before each query of q . (k + p) + bias, per head, without a row outside the band
    (Sukhbaatar et al. 2019, eq. 3 and 6; 1/sqrt(d_head) is folded into q).

    q [u, h, m, dh]; k, v [rows, h*dh]: a group's pools; window [u, s+m] int32: pool rows, oldest first, the block's own last;
    head [1, h, 1] int32 = 0 ... h-1; pe [dh, s]; bias [u, h, m or 1, s] -> o [u, m, h*dh]. Query i sees keys i ... i+s-1. The relative
    part is computed per distance and then skewed: rows of length s, padded to s+m+1 and read again with length s+m, move right
    by one each."""
    return f"""
    SpanAttention (q, k, v, window, head, pe, bias) => (o) {{
      split = Constant <value = int64[2] {{-1, {d_head}}}> ()
      kh = Reshape (k, split)
      vh = Reshape (v, split)
      last = Constant <value_ints = [-1]> ()
      zero = Constant <value_ints = [0]> ()
      one = Constant <value_ints = [1]> ()
      two = Constant <value_ints = [2]> ()
      heads64 = Size (head)
      heads = Cast <to = 6> (heads64)
      base = Mul (window, heads)
      wide = Unsqueeze (base, one)
      index = Add (wide, head)
      gk = Gather (kh, index)
      gv = Gather (vh, index)
      gkt = Transpose <perm = [0, 1, 3, 2]> (gk)
      content = MatMul (q, gkt)
      relative = MatMul (q, pe)
      banded = Add (relative, bias)
      m = Shape <start = 2, end = 3> (q)
      pad = Add (m, one)
      pads = Concat <axis = 0> (zero, pad)
      hidden = Constant <value = float {{-1e30}}> ()
      padded = Pad (banded, pads, hidden, last)
      lead = Shape <start = 0, end = 2> (q)
      flat_shape = Concat <axis = 0> (lead, last)
      flat = Reshape (padded, flat_shape)
      width = Shape <start = 3, end = 4> (content)
      kept = Mul (m, width)
      cut = Slice (flat, zero, kept, two)
      like = Shape (content)
      skewed = Reshape (cut, like)
      scores = Add (content, skewed)
      weights = Softmax <axis = -1> (scores)
      mixed = MatMul (weights, gv)
      by_token = Transpose <perm = [0, 2, 1, 3]> (mixed)
      merged = Constant <value_ints = [0, 0, -1]> ()
      o = Reshape (by_token, merged)
    }}"""


def groups_of(s: SpanShape, layer_spans: list[int]) -> list[dict]:
    """[{heads: indices in the checkpoint, span}] of one layer, narrow to wide."""
    order = sorted(range(s.heads), key=lambda h: (layer_spans[h], h))
    out: list[dict] = []
    for h in order:
        rounded = min(s.span_max, math.ceil(layer_spans[h] / SPAN_MULTIPLE) * SPAN_MULTIPLE)
        if out and rounded <= max(out[-1]["narrowest"] * GROUP_RATIO, 4 * SPAN_MULTIPLE):
            out[-1]["heads"].append(h)
            out[-1]["span"] = max(out[-1]["span"], rounded)
        else:
            out.append({"heads": [h], "span": rounded, "narrowest": rounded})
    return [{"heads": g["heads"], "span": g["span"]} for g in out]


def plan(s: SpanShape, w: dict[str, Tensor]) -> list[list[dict]]:
    return [groups_of(s, layer) for layer in spans(s, w)]


def permuted(weight: Tensor, heads: list[int], d_head: int, dim: int) -> Tensor:
    rows = torch.cat([torch.arange(h * d_head, (h + 1) * d_head) for h in heads])
    return weight.index_select(dim, rows)


def initialisers(s: SpanShape, w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Constants by name; heads in the order of the plan's groups, so that a group's columns lie together."""
    q, scale = quantise(w["in_emb.weight"])
    out = {"emb": q, "emb.scale": scale} | quantised("out", w["out_emb.weight"], w["out_emb.bias"])
    out["pe"] = w["key_pe"][0].contiguous()
    out["distance"] = torch.arange(s.span_max - 1, -1, -1).float()
    nothing = torch.zeros(0)
    for i, groups in enumerate(plan(s, w)):
        p = f"layers.{i}."
        heads = [h for g in groups for h in g["heads"]]
        take = lambda name: permuted(w[f"{p}attn.proj_{name}.weight"], heads, s.d_head, 0)  # noqa: B023, E731
        qkv = torch.cat([take("query") / math.sqrt(s.d_head), take("key"), take("val")])
        out |= {k: v for k, v in quantised(f"l{i}.qkv", qkv, nothing).items() if not k.endswith(".bias")}
        o = permuted(w[f"{p}attn.proj_out.weight"], heads, s.d_head, 1)
        out |= {k: v for k, v in quantised(f"l{i}.o", o, nothing).items() if not k.endswith(".bias")}
        out |= quantised(f"l{i}.f1", w[f"{p}ff.fc1.weight"], w[f"{p}ff.fc1.bias"])
        out |= quantised(f"l{i}.f2", w[f"{p}ff.fc2.weight"], w[f"{p}ff.fc2.bias"])
        for n in ("norm1", "norm2"):
            out |= {f"l{i}.{n}.gain": w[f"{p}{n}.weight"], f"l{i}.{n}.shift": w[f"{p}{n}.bias"]}
        if s.dynamic:
            span = f"{p}attn.attn.dynamic_span"
            out |= {f"l{i}.span": w[f"{span}.weight"][heads].T.contiguous(), f"l{i}.span.bias": w[f"{span}.bias"][heads]}
        else:
            out[f"l{i}.z"] = (w[f"{MASK.format(i)}.current_val"].flatten()[heads] * s.span_max).contiguous()
    return out


def reference_weights(s: SpanShape, w: dict[str, Tensor], constants: dict[str, Tensor]) -> dict[str, Tensor]:
    """Checkpoint tensors that mean exactly what the constants mean: w with its matrices replaced by the dequantised ones."""
    out = dict(w) | {"in_emb.weight": dequantise(constants["emb"], constants["emb.scale"]), "out_emb.weight": dequantised("out", constants)}
    for i, groups in enumerate(plan(s, w)):
        p = f"layers.{i}."
        heads = [h for g in groups for h in g["heads"]]
        back = [heads.index(h) for h in range(s.heads)]
        q, k, v = dequantised(f"l{i}.qkv", constants).chunk(3)
        out[f"{p}attn.proj_query.weight"] = permuted(q * math.sqrt(s.d_head), back, s.d_head, 0)
        out[f"{p}attn.proj_key.weight"] = permuted(k, back, s.d_head, 0)
        out[f"{p}attn.proj_val.weight"] = permuted(v, back, s.d_head, 0)
        out[f"{p}attn.proj_out.weight"] = permuted(dequantised(f"l{i}.o", constants), back, s.d_head, 1)
        out[f"{p}ff.fc1.weight"] = dequantised(f"l{i}.f1", constants)
        out[f"{p}ff.fc2.weight"] = dequantised(f"l{i}.f2", constants)
    return out


def layer_norm(x: str, norm: str, to: str) -> list[str]:
    ai = functions.DOMAIN
    return [
        f"{to}_centred, {to}_inverse = {ai}.Normalize <epsilon = {LAYER_NORM_EPS!r}> ({x})",
        f"{to}_unit = Mul ({to}_centred, {to}_inverse)",
        f'{to}_gained = Mul ({to}_unit, "{norm}.gain")',
        f'{to} = Add ({to}_gained, "{norm}.shift")',
    ]


def dynamic_spans(s: SpanShape, i: int) -> list[str]:
    """z = S sigmoid(v . x + b), per head and token; in float32 whatever the precision of the matrices."""
    return [
        f'span_dot{i} = MatMul (x{i}, "l{i}.span")',
        f'span_logit{i} = Add (span_dot{i}, "l{i}.span.bias")',
        f"span_share{i} = Sigmoid (span_logit{i})",
        f"span_max{i} = Constant <value = float {{{float(s.span_max)}}}> ()",
        f"z_rows{i} = Mul (span_share{i}, span_max{i})",
    ]


def window_tables(s: SpanShape, groups_by_layer: list[list[dict]]) -> list[str]:
    """What groups of one span share."""
    sizes = sorted({len(g["heads"]) for groups in groups_by_layer for g in groups})
    lines = [
        f"head_size = Constant <value_ints = [{s.d_head}]> ()",
        "axis1 = Constant <value_ints = [1]> ()",
        f"end = Constant <value_ints = [{s.span_max}]> ()",
        "length = Shape <start = 1, end = 2> (ids)",
        f"thirds = Constant <value_ints = [{s.d_model}, {s.d_model}, {s.d_model}]> ()",
    ]
    for h in sizes:
        numbers = ", ".join(map(str, range(h)))
        lines += [f"heads{h} = Constant <value = int32[1, {h}, 1] {{{numbers}}}> ()", f"count{h} = Constant <value_ints = [{h}]> ()"]
        lines += [f"split{h} = Concat <axis = 0> (block, count{h}, head_size)"]
    for span in sorted({g["span"] for groups in groups_by_layer for g in groups}):
        lines += [
            # Keys before the block: the group's span, or fewer where the lanes' cap leaves no head more.
            f"full{span} = Shape <start = 1, end = 2> (window{span})",
            f"keys_before{span} = Sub (full{span}, length)",
            f"far{span} = Sub (end, keys_before{span})",
            f'pe{span} = Slice ("pe", far{span}, end, axis1)',
            f'distance{span} = Slice ("distance", far{span}, end)',
            # Where the block's own keys and values go: the last m rows of each lane's window.
            f"own{span} = Slice (window{span}, keys_before{span}, full{span}, axis1)",
            f"own_flat{span} = Reshape (own{span}, last)",
            f"own64_{span} = Cast <to = 7> (own_flat{span})",
            f"place{span} = Unsqueeze (own64_{span}, last)",
        ]
    return lines


def layer_by_groups(s: SpanShape, i: int, groups: list[dict], p: Precision) -> list[str]:
    """A layer in ONNX's own operators, from x{i} to x{i + 1}."""
    dh, ai, x = s.d_head, functions.DOMAIN, f"x{i}"
    lines = [*p.quantised(x), *p.product(x, f"l{i}.qkv", f"qkv{i}"), f"q{i}, k{i}, v{i} = Split <axis = 1> (qkv{i}, thirds)"]
    if s.dynamic:
        lines += dynamic_spans(s, i)
    widths_of = ", ".join(str(len(g["heads"]) * dh) for g in groups)
    lines.append(f"cuts{i} = Constant <value_ints = [{widths_of}]> ()")
    for name in "qkv":
        parts = ", ".join(f"{name}{i}_{j}" for j in range(len(groups)))
        lines.append(f"{parts} = Split <axis = 1> ({name}{i}, cuts{i})")
    first = 0
    for j, g in enumerate(groups):
        h, span, tag = len(g["heads"]), g["span"], f"{i}_{j}"
        lines += [
            f"keys{tag}_out = ScatterND (keys{tag}, place{span}, k{tag})",
            f"values{tag}_out = ScatterND (values{tag}, place{span}, v{tag})",
            f"q4_{tag} = Reshape (q{tag}, split{h})",
            f"qh_{tag} = Transpose <perm = [0, 2, 1, 3]> (q4_{tag})",
            f"h_from{tag} = Constant <value_ints = [{first}]> ()",
            f"h_end{tag} = Constant <value_ints = [{first + h}]> ()",
        ]
        if s.dynamic:
            lines += [
                f"zs{tag} = Slice (z_rows{i}, h_from{tag}, h_end{tag}, axis1)",
                f"z_split{tag} = Concat <axis = 0> (block, count{h})",
                f"z3_{tag} = Reshape (zs{tag}, z_split{tag})",
                f"zt_{tag} = Transpose <perm = [0, 2, 1]> (z3_{tag})",
                f"z{tag} = Unsqueeze (zt_{tag}, last)",
            ]
        else:
            lines += [
                f'zs{tag} = Slice ("l{i}.z", h_from{tag}, h_end{tag})',
                f"z_shape{tag} = Constant <value_ints = [1, {h}, 1, 1]> ()",
                f"z{tag} = Reshape (zs{tag}, z_shape{tag})",
            ]
        lines += [
            f"bias{tag} = {ai}.SpanMask <ramp = {float(s.ramp)}> (z{tag}, cap, distance{span})",
            f"o{tag} = {ai}.SpanAttention (qh_{tag}, keys{tag}_out, values{tag}_out, window{span}, heads{h}, pe{span}, bias{tag})",
        ]
        first += h
    parts = ", ".join(f"o{i}_{j}" for j in range(len(groups)))
    lines += [f"heads_out{i} = Concat <axis = 2> ({parts})", f"mixed{i} = Reshape (heads_out{i}, rows_of)"]
    lines += [*p.quantised(f"mixed{i}"), *p.product(f"mixed{i}", f"l{i}.o", f"attended{i}"), f"sum{i} = Add ({x}, attended{i})"]
    lines += layer_norm(f"sum{i}", f"l{i}.norm1", f"h{i}")
    lines += [*p.quantised(f"h{i}"), *p.product(f"h{i}", f"l{i}.f1", f"f1_{i}"), f'hidden{i} = Add (f1_{i}, "l{i}.f1.bias")']
    lines += [*p.relu(f"hidden{i}"), *p.product(f"hidden{i}", f"l{i}.f2", f"f2_{i}", "bottom"), f'ff{i} = Add (f2_{i}, "l{i}.f2.bias")']
    return [*lines, f"out{i} = Add (h{i}, ff{i})", *layer_norm(f"out{i}", f"l{i}.norm2", f"x{i + 1}")]


def whole_layer(s: SpanShape, i: int, groups: list[dict]) -> list[str]:
    """The same in operators that have a CUDA kernel (span_layer.py), and products."""
    ai, n, norm = functions.DOMAIN, len(groups), f"{functions.DOMAIN}.AddNormalize <epsilon = {LAYER_NORM_EPS!r}>"
    heads = f"heads = [{', '.join(str(len(g['heads'])) for g in groups)}]"
    pools = lambda suffix: ", ".join(f"keys{i}_{j}{suffix}, values{i}_{j}{suffix}, window{g['span']}" for j, g in enumerate(groups))  # noqa: E731
    written = ", ".join(f"keys{i}_{j}_out, values{i}_{j}_out" for j in range(n))
    product = lambda x, w, to: f'{to} = {ai}.DequantizedMatMul ({x}, "{w}", "{w}.scale")'  # noqa: E731
    z = f"z_rows{i}" if s.dynamic else f'"l{i}.z"'
    return [
        product(f"x{i}", f"l{i}.qkv", f"qkv{i}"),
        *(dynamic_spans(s, i) if s.dynamic else []),
        f"{written} = {ai}.WriteSpans{n} <{heads}> (qkv{i}, {pools('')})",
        f'mixed{i} = {ai}.SpanHeads{n} <{heads}, ramp = {float(s.ramp)}> (qkv{i}, {z}, cap, "pe", "distance", {pools("_out")})',
        product(f"mixed{i}", f"l{i}.o", f"attended{i}"),
        f'h{i} = {norm} (x{i}, attended{i}, no_bias, "l{i}.norm1.gain", "l{i}.norm1.shift")',
        product(f"h{i}", f"l{i}.f1", f"f1_{i}"),
        f'hidden{i} = {ai}.AddRelu (f1_{i}, "l{i}.f1.bias")',
        product(f"hidden{i}", f"l{i}.f2", f"f2_{i}"),
        f'x{i + 1} = {norm} (h{i}, f2_{i}, "l{i}.f2.bias", "l{i}.norm2.gain", "l{i}.norm2.shift")',
    ]


def step_graph(s: SpanShape, groups_by_layer: list[list[dict]], p: Precision) -> str:
    d, dh, ai = s.d_model, s.d_head, functions.DOMAIN
    widths = sorted({g["span"] for groups in groups_by_layer for g in groups})
    inputs = ["int32[u, m] ids", "int32[u, m] targets", "float[u, 1, 1, 1] cap", "int64[1] k"]
    inputs += [f"int32[u, window{span}] window{span}" for span in widths]
    outputs = ["float[u, m] logprob", "float[u, m, k_size] top_logprobs", "int32[u, m, k_size] top_ids"]
    if s.dynamic:
        outputs.append(f"float[u, m, {s.layers * s.heads}] z")
    lines = [
        *p.constants,
        *p.relu_constants,
        "one_column = Constant <value_ints = [-1, 1]> ()",
        "last = Constant <value_ints = [-1]> ()",
        "block = Shape (ids)",
    ]
    # Of 8 bits there are no kernels, and a CPU has no launches to save.
    whole = isinstance(p, Float32)
    if whole:
        lines += [f"width = Constant <value_ints = [{d}]> ()", "no_bias = ConstantOfShape <value = float[1] {0.0}> (width)"]
    else:
        lines += [f"rows_of = Constant <value_ints = [-1, {d}]> ()", *window_tables(s, groups_by_layer)]
    lines += ["flat_ids = Reshape (ids, last)", f'x0 = {ai}.QuantizedEmbedding <factor = 1.0> (flat_ids, "emb", "emb.scale")']
    for i, groups in enumerate(groups_by_layer):
        for j, g in enumerate(groups):
            for name in ("keys", "values"):
                pool = f"float[pool{i}_{j}, {len(g['heads']) * dh}] {name}{i}_{j}"
                inputs.append(pool)
                outputs.append(f"{pool}_out")
        lines += whole_layer(s, i, groups) if whole else layer_by_groups(s, i, groups, p)
    y = f"x{s.layers}"
    lines += [
        *p.quantised(y),
        *p.product(y, "out", "unbiased"),
        'logits = Add (unbiased, "out.bias")',
        "logprobs = LogSoftmax <axis = -1> (logits)",
        "column = Reshape (targets, one_column)",
        "chosen = GatherElements <axis = 1> (logprobs, column)",
        "logprob = Reshape (chosen, block)",
        "best, best64 = TopK <axis = -1, largest = 1, sorted = 1> (logprobs, k)",
        "best_ids = Cast <to = 6> (best64)",
        "best_shape = Concat <axis = 0> (block, last)",
        "top_logprobs = Reshape (best, best_shape)",
        "top_ids = Reshape (best_ids, best_shape)",
    ]
    if s.dynamic:
        # In the checkpoint's order of heads, as replies show them.
        orders = [[h for g in groups for h in g["heads"]] for groups in groups_by_layer]
        offsets = [i * s.heads + order.index(h) for i, order in enumerate(orders) for h in range(s.heads)]
        every = ", ".join(f"z_rows{i}" for i in range(s.layers))
        lines += [
            f"z_all = Concat <axis = 1> ({every})",
            f"z_order = Constant <value_ints = [{', '.join(map(str, offsets))}]> ()",
            "z_ordered = Gather <axis = 1> (z_all, z_order)",
            "z = Reshape (z_ordered, best_shape)",
        ]
    body = "\n      ".join(line for line in lines if line)
    return f"""
    step ({", ".join(inputs)}) => ({", ".join(outputs)}) {{
      {body}
    }}"""


def step_functions(s: SpanShape, groups_by_layer: list[list[dict]], p: Precision) -> tuple[str, ...]:
    counts = sorted({len(groups) for groups in groups_by_layer})
    layers = [span_layer.write_spans(n, s.d_model, s.d_head) for n in counts]
    layers += [span_layer.span_heads(n, s.d_model, s.d_head, s.dynamic) for n in counts]
    shared = (functions.normalize(), functions.quantized_embedding(), span_mask(), span_attention(s.d_head))
    return (*shared, *layers, span_layer.add_normalize(), span_layer.add_relu(), *p.functions)


def graphs(s: SpanShape, w: dict[str, Tensor], constants: dict[str, Tensor]) -> dict[str, dict[str, onnx.ModelProto]]:
    layers = plan(s, w)
    return {p.name: {"step": build(step_graph(s, layers, p), constants, step_functions(s, layers, p))} for p in (Int8(), Float32())}

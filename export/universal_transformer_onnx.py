"""The graphs of a Universal Transformer: `begin`, `step`, `finish` over pools of slots, for rows of any lanes at any depth.

A *slot* is one position of one lane; its state, accumulator, halting sum, key and value are rows of pools that live from
step to step. Each graph gathers the rows it needs by index and scatters them back, so halted positions cost nothing and
nothing is padded but attention (see RaggedAttention). The host binds a pool as input AND output of a graph: the scatter
then writes in place.

    begin   ids -> state = embedding, accumulator = 0, halting sum = 0
    step    rows = active ++ renewed. Active rows are computed in full; renewed rows (halted one step ago) only renew their key
            and value, for the last time: under `freeze` they are constant from there on.
    finish  accumulator -> log-probability of a target, and the k best
"""

from __future__ import annotations

import math
import re

import onnx
import torch
from onnx import parser
from torch import Tensor

import functions
from quantise import dequantise, quantise
from universal_transformer import sinusoid

def fold(weights: dict[str, Tensor], prefix: str, config: dict) -> dict[str, Tensor]:
    """The stack's matrices as the graphs use them. LayerNorm's affine part moves into the next matrix
    (W (g x + b) = (W g) x + W b) and 1/sqrt(d_head) into the queries (a power of two: exact)."""
    d = config["d_model"]
    w = lambda name: weights[f"{prefix}block.{name}"]  # noqa: E731

    def after_norm(norm: str, name: str) -> tuple[Tensor, Tensor]:
        gain, shift = w(f"{norm}.weight"), w(f"{norm}.bias")
        return w(f"{name}.weight") * gain, w(f"{name}.bias") + w(f"{name}.weight") @ shift

    qkv, qkv_bias = after_norm("ln1", "qkv")
    halt, halt_bias = after_norm("ln1", "halt")
    f1, f1_bias = after_norm("ln2", "f1")
    scale = 1 / math.sqrt(d // config["heads"])
    return {
        "q": qkv[:d] * scale, "q.bias": qkv_bias[:d] * scale,
        "kv": qkv[d:], "kv.bias": qkv_bias[d:],
        "halt": halt, "halt.bias": halt_bias,
        "o": w("o.weight"), "o.bias": w("o.bias"),
        "f1": f1, "f1.bias": f1_bias,
        "f2": w("f2.weight"), "f2.bias": w("f2.bias"),
    }  # fmt: skip


def unfold(folded: dict[str, Tensor], prefix: str, config: dict) -> dict[str, Tensor]:
    """The inverse for the reference model: checkpoint names, with the affine part of LayerNorm left at 1 and 0."""
    d = config["d_model"]
    scale = math.sqrt(d // config["heads"])
    named = {
        "qkv.weight": torch.cat([folded["q"] * scale, folded["kv"]]),
        "qkv.bias": torch.cat([folded["q.bias"] * scale, folded["kv.bias"]]),
        "ln1.weight": torch.ones(d), "ln1.bias": torch.zeros(d),
        "ln2.weight": torch.ones(d), "ln2.bias": torch.zeros(d),
        "halt.weight": folded["halt"], "halt.bias": folded["halt.bias"],
    }  # fmt: skip
    for name in ("o", "f1", "f2"):
        named |= {f"{name}.weight": folded[name], f"{name}.bias": folded[f"{name}.bias"]}
    return {f"{prefix}block.{k}": v for k, v in named.items()}


MATRICES = ("q", "kv", "o", "f1", "f2")


def initialisers(weights: dict[str, Tensor], config: dict, positions: int) -> dict[str, Tensor]:
    """Every constant of the graphs by name, each stored once in weights.bin. Matrices are int8 [in, out] with `<name>.scale` [out];
    the embedding, which is also the output matrix, is int8 [vocabulary, d] with a scale a row."""
    stack = fold(weights, "", config)
    out: dict[str, Tensor] = {}
    for name in MATRICES:
        q, scale = quantise(stack[name])
        out |= {name: q.T.contiguous(), f"{name}.scale": scale, f"{name}.bias": stack[f"{name}.bias"]}
    q, scale = quantise(weights["emb.weight"])
    out |= {"emb": q, "emb.scale": scale, "halt": stack["halt"], "halt.bias": stack["halt.bias"]}
    out |= {"lnf.gain": weights["lnf.weight"], "lnf.shift": weights["lnf.bias"]}
    out |= {"positions": sinusoid(positions, config["d_model"]), "steps": sinusoid(config["max_steps"] + 1, config["d_model"])}
    return out


def reference_weights(constants: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    """Checkpoint tensors that mean exactly what a package's constants mean: what parity is measured against."""
    folded = {"halt": constants["halt"], "halt.bias": constants["halt.bias"]}
    for name in MATRICES:
        folded[name] = dequantise(constants[name].T, constants[f"{name}.scale"])
        folded[f"{name}.bias"] = constants[f"{name}.bias"]
    return unfold(folded, "", config) | {
        "emb.weight": dequantise(constants["emb"], constants["emb.scale"]),
        "lnf.weight": constants["lnf.gain"],
        "lnf.bias": constants["lnf.shift"],
    }


class Int8:
    """Emits the lines of a graph whose matrix products are 8-bit with row-quantised activations."""

    name = "int8"

    def normalised(self, x: str) -> list[str]:
        """LN(x) as an operand of `linear`: quantising `centred` and scaling by `inverse` skips a pass over the row."""
        return [
            f"{x}_centred, {x}_inverse = {functions.DOMAIN}.Normalize <epsilon = EPSILON> ({x})",
            f"{x}_q, {x}_peak = {functions.DOMAIN}.RowQuantize ({x}_centred)",
            f"{x}_scale = Mul ({x}_peak, {x}_inverse)",
        ]

    def quantised(self, x: str) -> list[str]:
        return [f"{x}_q, {x}_scale = {functions.DOMAIN}.RowQuantize ({x})"]

    def relu(self, x: str) -> list[str]:
        return [f"{x}_q, {x}_scale = {functions.DOMAIN}.RowQuantizeRelu ({x})"]

    def first(self, x: str, to: str, count: str) -> list[str]:
        return [f"{to}_q = Slice ({x}_q, from_start, {count})", f"{to}_scale = Slice ({x}_scale, from_start, {count})"]

    def product(self, x: str, weight: str, to: str, zero: str = "centre") -> list[str]:
        return [f'{to} = {functions.DOMAIN}.RowQuantizedMatMul ({x}_q, {x}_scale, {zero}, "{weight}", "{weight}.scale")']

    constants = ["centre = Constant <value = uint8 {128}> ()"]
    relu_constants = ["bottom = Constant <value = uint8 {0}> ()"]
    functions = (functions.row_quantize(), functions.row_quantize_relu(), functions.row_quantized_matmul())


class Float32:
    """The same graph in float32 arithmetic on the same int8 weights: what parity with PyTorch is shown on."""

    name = "float32"

    def normalised(self, x: str) -> list[str]:
        return [
            f"{x}_centred, {x}_inverse = {functions.DOMAIN}.Normalize <epsilon = EPSILON> ({x})",
            f"{x}_wide = Mul ({x}_centred, {x}_inverse)",
        ]

    def quantised(self, x: str) -> list[str]:
        return [f"{x}_wide = Identity ({x})"]

    def relu(self, x: str) -> list[str]:
        return [f"{x}_wide = Relu ({x})"]

    def first(self, x: str, to: str, count: str) -> list[str]:
        return [f"{to}_wide = Slice ({x}_wide, from_start, {count})"]

    def product(self, x: str, weight: str, to: str, zero: str = "") -> list[str]:
        return [f'{to} = {functions.DOMAIN}.DequantizedMatMul ({x}_wide, "{weight}", "{weight}.scale")']

    constants: list[str] = []
    relu_constants: list[str] = []
    functions = (functions.dequantized_matmul(),)


Precision = Int8 | Float32


def linear(p: Precision, x: str, weight: str, to: str, zero: str = "centre") -> list[str]:
    return [*p.product(x, weight, f"{to}_product", zero), f'{to} = Add ({to}_product, "{weight}.bias")']


def begin_graph(config: dict) -> str:
    d = config["d_model"]
    return f"""
    begin (int32[rows] ids, int32[rows] slots, float[pool, {d}] state, float[pool, {d}] accumulator, float[pool, 1] halting)
       => (float[pool, {d}] state_out, float[pool, {d}] accumulator_out, float[pool, 1] halting_out) {{
      e = {functions.DOMAIN}.QuantizedEmbedding <factor = {math.sqrt(d)!r}> (ids, "emb", "emb.scale")
      slots64 = Cast <to = 7> (slots)
      last = Constant <value_ints = [-1]> ()
      place = Unsqueeze (slots64, last)
      state_out = ScatterND (state, place, e)
      zeros = Sub (e, e)
      accumulator_out = ScatterND (accumulator, place, zeros)
      first = Constant <value_ints = [0]> ()
      second = Constant <value_ints = [1]> ()
      zero = Slice (zeros, first, second, second)
      halting_out = ScatterND (halting, place, zero)
    }}"""


def step_graph(config: dict, p: Precision) -> str:
    d = config["d_model"]
    ai = functions.DOMAIN
    lines = [
        *p.constants,
        *p.relu_constants,
        "from_start = Constant <value_ints = [0]> ()",
        "last = Constant <value_ints = [-1]> ()",
        f"halves = Constant <value_ints = [{d}, {d}]> ()",
        "state_rows = Gather (state, slots)",
        f'x = {ai}.CoordinateEmbedding (state_rows, position, step, "positions", "steps")',
        *p.normalised("x"),
        # Keys and values of active and renewed rows; written before attention reads, which the pool's name enforces.
        *linear(p, "x", "kv", "key_value"),
        "new_keys, new_values = Split <axis = 1> (key_value, halves)",
        "cache64 = Cast <to = 7> (cache_rows)",
        "cache_place = Unsqueeze (cache64, last)",
        "keys_out = ScatterND (keys, cache_place, new_keys)",
        "values_out = ScatterND (values, cache_place, new_values)",
        # The rest is for active rows only, which come first.
        "active_count = Shape <start = 0, end = 1> (threshold)",
        "active_slots = Slice (slots, from_start, active_count)",
        "ax = Slice (x, from_start, active_count)",
        *p.first("x", "a", "active_count"),
        *linear(p, "a", "q", "queries"),
        f"attended = {ai}.RaggedAttention (queries, keys_out, values_out, groups, query_index, visible, key_index, row)",
        *p.quantised("attended"),
        *linear(p, "attended", "o", "mixed"),
        "y = Add (ax, mixed)",
        *p.normalised("y"),
        *linear(p, "y", "f1", "hidden"),
        *p.relu("hidden"),
        *linear(p, "hidden", "f2", "transition", "bottom"),
        "z = Add (y, transition)",
        # Halting: p is taken before the transform (tensor2tensor and the paper's appendix C agree).
        f'probability_rows = {ai}.HaltingProbability (x_centred, x_inverse, "halt", "halt.bias")',
        "probability = Slice (probability_rows, from_start, active_count)",
        "sum = Gather (halting, active_slots)",
        f"weight, sum_out, halted, remainder = {ai}.HaltingUpdate (probability, sum, threshold, is_last, is_held)",
        "slots64 = Cast <to = 7> (active_slots)",
        "place = Unsqueeze (slots64, last)",
        "state_out = ScatterND (state, place, z)",
        "before = Gather (accumulator, active_slots)",
        "share = Mul (weight, z)",
        "total = Add (before, share)",
        "accumulator_out = ScatterND (accumulator, place, total)",
        "halting_out = ScatterND (halting, place, sum_out)",
    ]
    body = "\n      ".join(lines).replace("EPSILON", repr(config["layer_norm_eps"]))
    return f"""
    step (float[pool, {d}] state, float[pool, {d}] accumulator, float[pool, 1] halting, float[cache, {d}] keys, float[cache, {d}] values,
          int32[rows] slots, int32[rows] cache_rows, int32[rows] position, int32[rows] step,
          float[active, 1] threshold, bool[active, 1] is_last, bool[active, 1] is_held,
          int64[group, 17] groups, int32[query] query_index, int32[query] visible, int32[key] key_index, int32[active] row)
       => (float[pool, {d}] state_out, float[pool, {d}] accumulator_out, float[pool, 1] halting_out,
           float[cache, {d}] keys_out, float[cache, {d}] values_out, bool[active, 1] halted, float[active, 1] remainder) {{
      {body}
    }}"""


def finish_graph(config: dict, p: Precision, top: bool) -> str:
    """log softmax(LNf(accumulator) E^T) at the target; the [rows, vocabulary] matrix never leaves the graph."""
    d = config["d_model"]
    ai = functions.DOMAIN
    lines = [
        *p.constants,
        "sums = Gather (accumulator, slots)",
        f"centred, inverse = {ai}.Normalize <epsilon = {config['layer_norm_eps']!r}> (sums)",
        "unit = Mul (centred, inverse)",
        'gained = Mul (unit, "lnf.gain")',
        'out = Add (gained, "lnf.shift")',
        *p.quantised("out"),
        *(line.replace('"emb"', "emb_columns") for line in p.product("out", "emb", "logits")),
        "logprobs = LogSoftmax <axis = -1> (logits)",
        "last = Constant <value_ints = [-1]> ()",
        "column = Unsqueeze (targets, last)",
        "chosen = GatherElements <axis = 1> (logprobs, column)",
        "logprob = Squeeze (chosen, last)",
    ]
    outputs, inputs = "float[rows] logprob", "int32[rows] slots, int32[rows] targets"
    if top:
        lines += ["top_logprobs, top64 = TopK <axis = -1, largest = 1, sorted = 1> (logprobs, k)", "top_ids = Cast <to = 6> (top64)"]
        outputs += ", float[rows, k_size] top_logprobs, int32[rows, k_size] top_ids"
        inputs += ", int64[1] k"
    # Stored once as rows for `begin`; transposed here when the session is created.
    body = "\n      ".join(['emb_columns = Transpose <perm = [1, 0]> ("emb")', *lines])
    return f"""
    finish{"_top" if top else ""} (float[pool, {d}] accumulator, {inputs}) => ({outputs}) {{
      {body}
    }}"""


def build(graph: str, constants: dict[str, Tensor], used_functions: tuple[str, ...]) -> onnx.ModelProto:
    """Parses a graph and attaches its functions. Constants are named in quotes in the text, since their names hold dots."""
    names = sorted(set(re.findall(r'"([a-z0-9.]+)"', graph)))
    text = re.sub(r'"([a-z0-9.]+)"', lambda m: m.group(1).replace(".", "__"), graph)
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {functions.OPSET}, "{functions.DOMAIN}" : 1, "com.microsoft" : 1]>' + text)
    parsed = functions.parse(*used_functions)
    called = {node.op_type for node in model.graph.node} | {n.op_type for f in parsed for n in f.node}
    model.functions.extend(f for f in parsed if f.name in called)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name.replace("__", ".") in names:
                node.input[i] = name.replace("__", ".")
    for name in names:
        t = constants[name]
        kind = {torch.int8: onnx.TensorProto.INT8, torch.float32: onnx.TensorProto.FLOAT}[t.dtype]
        init = onnx.TensorProto(name=name, data_type=kind, dims=list(t.shape), data_location=onnx.TensorProto.EXTERNAL)
        model.graph.initializer.append(init)
    model.producer_name = "ponder-serve"
    return model


def graphs(config: dict, constants: dict[str, Tensor]) -> dict[str, dict[str, onnx.ModelProto]]:
    """{precision: {graph name: model}}; initialisers are marked external and still without an offset."""
    d_head = config["d_model"] // config["heads"]
    shared = (
        functions.coordinate_embedding(), functions.normalize(), functions.quantized_embedding(), functions.halting_probability(),
        functions.halting_update(), functions.ragged_attention(config["heads"], d_head, config["context"]),
    )  # fmt: skip
    out = {}
    for p in (Int8(), Float32()):
        used = (*shared, *p.functions)
        texts = {
            "begin": begin_graph(config),
            "step": step_graph(config, p),
            "finish": finish_graph(config, p, top=False),
            "finish_top": finish_graph(config, p, top=True),
        }
        out[p.name] = {name: build(text, constants, used) for name, text in texts.items()}
    return out


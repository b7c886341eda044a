"""The graphs of a Universal Transformer: `begin`, `step`, `finish` over pools of slots, for rows of any lanes at any depth.

A *slot* is one position of one lane; its state, accumulator, halting sum, key and value are rows of pools that live from
step to step. Each graph gathers the rows it needs by index and scatters them back, so halted positions cost nothing and
nothing is padded but attention (see RaggedAttention). The host binds a pool as input AND output of a graph: the scatter
then writes in place.

    begin   ids -> state = embedding, accumulator = 0, halting sum = 0
    step    rows = active ++ renewed. Active rows are computed in full; renewed rows (halted one step ago) only renew their key
            and value, for the last time: under `freeze` they are constant from there on.
    finish  accumulator -> what the stack is for: log-probabilities of given targets (score), the k best next tokens (decoder),
            or the keys and values that a decoder will attend over (encoder)

A stack's constants are named with its prefix: none for a language model, `enc.` and `dec.` for translation.
"""

from __future__ import annotations

import math
import re

import onnx
import torch
from onnx import parser
from torch import Tensor

import cuda_functions
import cuda_graphs
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
    cross = {}
    if f"{prefix}block.xq.weight" in weights:
        xq, xq_bias = after_norm("lnx", "xq")
        cross = {"xq": xq * scale, "xq.bias": xq_bias * scale, "xo": w("xo.weight"), "xo.bias": w("xo.bias")}
    return cross | {
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
    if "xq" in folded:
        named |= {"xq.weight": folded["xq"] * scale, "xq.bias": folded["xq.bias"] * scale}
        named |= {"lnx.weight": torch.ones(d), "lnx.bias": torch.zeros(d)}
    for name in {"o", "f1", "f2", "xo"} & folded.keys():
        named |= {f"{name}.weight": folded[name], f"{name}.bias": folded[f"{name}.bias"]}
    return {f"{prefix}block.{k}": v for k, v in named.items()}


def quantised(name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """A matrix as the graphs multiply by it: int8 [in, out], a scale per output column, and its bias."""
    q, scale = quantise(weight)
    return {name: q.T.contiguous(), f"{name}.scale": scale, f"{name}.bias": bias}


def dequantised(name: str, constants: dict[str, Tensor]) -> Tensor:
    return dequantise(constants[name].T, constants[f"{name}.scale"])


def stack_constants(weights: dict[str, Tensor], prefix: str, config: dict) -> dict[str, Tensor]:
    stack = fold(weights, prefix, config)
    out = {f"{prefix}halt": stack.pop("halt"), f"{prefix}halt.bias": stack.pop("halt.bias")}
    for name in [n for n in stack if not n.endswith(".bias")]:
        out |= quantised(f"{prefix}{name}", stack[name], stack[f"{name}.bias"])
    return out


def shared_constants(weights: dict[str, Tensor], config: dict, positions: int) -> dict[str, Tensor]:
    """The embedding, which is also the output matrix: int8 [vocabulary, d] with a scale a row; and the coordinate tables."""
    q, scale = quantise(weights["emb.weight"])
    tables = {"positions": sinusoid(positions, config["d_model"]), "steps": sinusoid(config["max_steps"] + 1, config["d_model"])}
    return {"emb": q, "emb.scale": scale} | tables


def final_norm(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}lnf.gain": weights[f"{prefix}lnf.weight"], f"{prefix}lnf.shift": weights[f"{prefix}lnf.bias"]}


def initialisers(weights: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    """Every constant of a package's graphs by name, each stored once in weights.bin."""
    if config["task"] == "lm":
        return stack_constants(weights, "", config) | shared_constants(weights, config, config["context"]) | final_norm(weights, "")
    # Cross-attention keys and values are made once a sentence, when its encoder finishes: W_xkv LNf(acc) + b, with LNf folded in.
    xkv, gain, shift = weights["dec.block.xkv.weight"], weights["enc.lnf.weight"], weights["enc.lnf.bias"]
    return (
        stack_constants(weights, "enc.", config)
        | quantised("enc.xkv", xkv * gain, weights["dec.block.xkv.bias"] + xkv @ shift)
        | stack_constants(weights, "dec.", config)
        | shared_constants(weights, config, config["max_len"])
        | final_norm(weights, "dec.")
    )


def reference_weights(constants: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    """Checkpoint tensors that mean exactly what a package's constants mean: what parity is measured against."""
    d = config["d_model"]
    out = {"emb.weight": dequantise(constants["emb"], constants["emb.scale"])}
    for prefix in [""] if config["task"] == "lm" else ["enc.", "dec."]:
        folded = {name: constants[f"{prefix}{name}"] for name in ("halt", "halt.bias")}
        for name in {"q", "kv", "o", "f1", "f2", "xq", "xo"}:
            if f"{prefix}{name}" in constants:
                folded[name] = dequantised(f"{prefix}{name}", constants)
                folded[f"{name}.bias"] = constants[f"{prefix}{name}.bias"]
        out |= unfold(folded, prefix, config)
        if f"{prefix}lnf.gain" in constants:
            out |= {f"{prefix}lnf.weight": constants[f"{prefix}lnf.gain"], f"{prefix}lnf.bias": constants[f"{prefix}lnf.shift"]}
    if "enc.xkv" in constants:
        out |= {"enc.lnf.weight": torch.ones(d), "enc.lnf.bias": torch.zeros(d)}
        out |= {"dec.block.xkv.weight": dequantised("enc.xkv", constants), "dec.block.xkv.bias": constants["enc.xkv.bias"]}
    return out


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


def attention_inputs(prefix: str) -> str:
    """The tables of RaggedAttention, see functions.py."""
    return (
        f"int64[{prefix}group, 17] {prefix}groups, int32[{prefix}query] {prefix}query_index, int32[{prefix}query] {prefix}visible, "
        f"int32[{prefix}key] {prefix}key_index, int32[active] {prefix}row"
    )


def step_graph(config: dict, p: Precision, prefix: str = "", cross: bool = False) -> str:
    """`cross`: a decoder, which also attends over the memory that its encoder left (memory_keys, memory_values)."""
    d = config["d_model"]
    ai = functions.DOMAIN
    normed = "y"
    memory = []
    if cross:
        normed = "w"
        memory = [
            *p.normalised("y"),
            *linear(p, "y", f"{prefix}xq", "memory_queries"),
            f"seen = {ai}.RaggedAttention (memory_queries, memory_keys, memory_values, memory_groups, memory_query_index, memory_visible, "
            "memory_key_index, memory_row)",
            *p.quantised("seen"),
            *linear(p, "seen", f"{prefix}xo", "recalled"),
            "w = Add (y, recalled)",
        ]
    lines = [
        *p.constants,
        *p.relu_constants,
        "from_start = Constant <value_ints = [0]> ()",
        "last = Constant <value_ints = [-1]> ()",
        f"halves = Constant <value_ints = [{d}, {d}]> ()",
        "state_rows = Gather (state, slots)",
        f'x = {ai}.CoordinateEmbedding (state_rows, position, step, "positions", "steps")',
        *p.normalised("x"),
        # Keys and values of active and renewed rows; attention reads the pool that this scatter returns, so it comes first.
        *linear(p, "x", f"{prefix}kv", "key_value"),
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
        *linear(p, "a", f"{prefix}q", "queries"),
        f"attended = {ai}.RaggedAttention (queries, keys_out, values_out, groups, query_index, visible, key_index, row)",
        *p.quantised("attended"),
        *linear(p, "attended", f"{prefix}o", "mixed"),
        "y = Add (ax, mixed)",
        *memory,
        *p.normalised(normed),
        *linear(p, normed, f"{prefix}f1", "hidden"),
        *p.relu("hidden"),
        *linear(p, "hidden", f"{prefix}f2", "transition", "bottom"),
        f"z = Add ({normed}, transition)",
        # Halting: p is taken before the transform (tensor2tensor and the paper's appendix C agree).
        f'probability_rows = {ai}.HaltingProbability (x_centred, x_inverse, "{prefix}halt", "{prefix}halt.bias")',
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
    memory_inputs = f", float[memory, {d}] memory_keys, float[memory, {d}] memory_values, {attention_inputs('memory_')}" if cross else ""
    return f"""
    step (float[pool, {d}] state, float[pool, {d}] accumulator, float[pool, 1] halting, float[cache, {d}] keys, float[cache, {d}] values,
          int32[rows] slots, int32[rows] cache_rows, int32[rows] position, int32[rows] step,
          float[active, 1] threshold, bool[active, 1] is_last, bool[active, 1] is_held,
          {attention_inputs("")}{memory_inputs})
       => (float[pool, {d}] state_out, float[pool, {d}] accumulator_out, float[pool, 1] halting_out,
           float[cache, {d}] keys_out, float[cache, {d}] values_out, bool[active, 1] halted, float[active, 1] remainder) {{
      {body}
    }}"""


def output_layer(config: dict, p: Precision, prefix: str) -> list[str]:
    """log softmax(LNf(accumulator) E^T) as `logprobs`; the embedding is stored once, as rows, and transposed when a session is created."""
    ai = functions.DOMAIN
    return [
        'emb_columns = Transpose <perm = [1, 0]> ("emb")',
        *p.constants,
        "sums = Gather (accumulator, slots)",
        f"centred, inverse = {ai}.Normalize <epsilon = {config['layer_norm_eps']!r}> (sums)",
        "unit = Mul (centred, inverse)",
        f'gained = Mul (unit, "{prefix}lnf.gain")',
        f'out = Add (gained, "{prefix}lnf.shift")',
        *p.quantised("out"),
        *(line.replace('"emb"', "emb_columns") for line in p.product("out", "emb", "logits")),
        "logprobs = LogSoftmax <axis = -1> (logits)",
    ]


BEST = ["top_logprobs, top64 = TopK <axis = -1, largest = 1, sorted = 1> (logprobs, k)", "top_ids = Cast <to = 6> (top64)"]


def finish_graph(config: dict, p: Precision, top: bool) -> str:
    """Scoring: the log-probability of each row's target, and with `top` its k best; the [rows, vocabulary] matrix stays in the graph."""
    lines = [
        *output_layer(config, p, ""),
        "last = Constant <value_ints = [-1]> ()",
        "column = Unsqueeze (targets, last)",
        "chosen = GatherElements <axis = 1> (logprobs, column)",
        "logprob = Squeeze (chosen, last)",
    ]
    outputs, inputs = "float[rows] logprob", "int32[rows] slots, int32[rows] targets"
    if top:
        lines += BEST
        outputs += ", float[rows, k_size] top_logprobs, int32[rows, k_size] top_ids"
        inputs += ", int64[1] k"
    body = "\n      ".join(lines)
    return f"""
    finish{"_top" if top else ""} (float[pool, {config["d_model"]}] accumulator, {inputs}) => ({outputs}) {{
      {body}
    }}"""


def decoder_finish_graph(config: dict, p: Precision) -> str:
    """The k best next tokens of each row."""
    body = "\n      ".join([*output_layer(config, p, "dec."), *BEST])
    return f"""
    decoder_finish (float[pool, {config["d_model"]}] accumulator, int32[rows] slots, int64[1] k)
       => (float[rows, k_size] top_logprobs, int32[rows, k_size] top_ids) {{
      {body}
    }}"""


def encoder_finish_graph(config: dict, p: Precision) -> str:
    """k', v' = split(W_xkv LNf(accumulator) + b), into the rows of the memory pools: once a sentence, for all decoder steps."""
    d = config["d_model"]
    lines = [
        *p.constants,
        "sums = Gather (accumulator, slots)",
        *(line.replace("EPSILON", repr(config["layer_norm_eps"])) for line in p.normalised("sums")),
        *linear(p, "sums", "enc.xkv", "key_value"),
        f"halves = Constant <value_ints = [{d}, {d}]> ()",
        "new_keys, new_values = Split <axis = 1> (key_value, halves)",
        "last = Constant <value_ints = [-1]> ()",
        "rows64 = Cast <to = 7> (memory_rows)",
        "place = Unsqueeze (rows64, last)",
        "memory_keys_out = ScatterND (memory_keys, place, new_keys)",
        "memory_values_out = ScatterND (memory_values, place, new_values)",
    ]
    body = "\n      ".join(lines)
    return f"""
    encoder_finish (float[pool, {d}] accumulator, int32[rows] slots, int32[rows] memory_rows,
                    float[memory, {d}] memory_keys, float[memory, {d}] memory_values)
       => (float[memory, {d}] memory_keys_out, float[memory, {d}] memory_values_out) {{
      {body}
    }}"""


def reached(called: set[str], known: list[onnx.FunctionProto]) -> set[str]:
    """Operators called, and those that the functions among them call."""
    more = called | {node.op_type for f in known if f.name in called for node in f.node}
    return called if more == called else reached(more, known)


def build(graph: str, constants: dict[str, Tensor], used_functions: tuple[str, ...]) -> onnx.ModelProto:
    """Parses a graph and attaches its functions. Constants are named in quotes in the text, since their names hold dots."""
    names = sorted(set(re.findall(r'"([a-z0-9.]+)"', graph)))
    text = re.sub(r'"([a-z0-9.]+)"', lambda m: m.group(1).replace(".", "__"), graph)
    opsets = f'"" : {functions.OPSET}, "{functions.DOMAIN}" : 1, "com.microsoft" : 1'
    model = parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>" + text)
    parsed = functions.parse(*used_functions)
    called = reached({node.op_type for node in model.graph.node}, parsed)
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
    # The scheduler pads a unit's keys to multiples of 64 at most.
    keys_max = math.ceil(constants["positions"].shape[0] / 64) * 64
    shared = (
        functions.coordinate_embedding(), functions.normalize(), functions.quantized_embedding(), functions.halting_probability(),
        functions.halting_update(), functions.ragged_attention(config["heads"], d_head, keys_max),
    )  # fmt: skip
    out = {}
    for p in (Int8(), Float32()):
        used = (*shared, *p.functions)
        if config["task"] == "lm":
            texts = {
                "begin": begin_graph(config),
                "step": step_graph(config, p),
                "finish": finish_graph(config, p, top=False),
                "finish_top": finish_graph(config, p, top=True),
            }
        else:
            texts = {
                "begin": begin_graph(config),
                "encoder_step": step_graph(config, p, "enc."),
                "encoder_finish": encoder_finish_graph(config, p),
                "decoder_step": step_graph(config, p, "dec.", cross=True),
                "decoder_finish": decoder_finish_graph(config, p),
            }
        out[p.name] = {name: build(text, constants, used) for name, text in texts.items()}
    native = cuda_functions.all_functions()
    out["float16"] = {name: build(text, constants, native) for name, text in cuda_graphs.graph_texts(config).items()}
    return out

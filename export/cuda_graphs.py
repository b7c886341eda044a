"""The graphs of precision `float16`: for ONNX Runtime's CUDA provider, with the native library of `cuda/` where it is at hand.

They read the same int8 weights as the other precisions and widen them (Cast, Mul, Cast), which ONNX Runtime does once, when it makes the
session. Matrix products are in float16 with float32 sums; the state, the halting sums and what is added to them stay float32.

What the host hands to the other precisions' graphs as index lists lies here in tables that stay on the device (cuda_functions.py): a step
takes the rows of this step and leaves those of the next. Only `progress`, 1028 numbers, comes to the host.

    begin          token ids -> state = embedding, accumulator = 0, halting sum = 0
    begin_lanes    the same of lanes, and their rows of the table: the host sends a few numbers of each 32 rows
    tile           the tiles of rows that the host has just written
    step           one recurrent step, and the tables of the next
    decoder_step   the same with memory, without the tables: the host makes them, a row a hypothesis
    decoder_seat, decoder_advance, decoder_settle   sentences that go from token to token without the host: cuda_seats.py
    finish         accumulator, depths and remainders -> what the stack is for
    decoder_best   decoder_finish where only the best token is wanted
"""

from __future__ import annotations

import math

from cuda_seats import advance_graph, seat_graph
from cuda_tables import PROGRESS
from functions import DOMAIN


def weights(to: str, *names: str) -> list[str]:
    """`to` float16 [k, n]: the int8 matrices `names` side by side, dequantised; `to`_bias float32 [n]."""
    lines = []
    for i, name in enumerate(names):
        lines += [f'{to}_q{i} = Cast <to = 1> ("{name}")', f'{to}_w{i} = Mul ({to}_q{i}, "{name}.scale")']
    parts, biases = ", ".join(f"{to}_w{i}" for i in range(len(names))), ", ".join(f'"{name}.bias"' for name in names)
    return [
        *lines,
        f"{to}_wide = Concat <axis = 1> ({parts})",
        f"{to} = Cast <to = 10> ({to}_wide)",
        f"{to}_bias = Concat <axis = 0> ({biases})",
    ]


# Rows that the products of a step are tuned for: a language model's are filled by many positions, an encoder's by sentences that have just
# come, a decoder's has a row a sentence.
MANY_ROWS = 4096
ENCODER_ROWS = 512
DECODER_ROWS = 256


def tuned(rows: int) -> str:
    return "" if rows == MANY_ROWS else f" <rows = {rows}>"


def linear(x: str, y: str, *names: str, kind: str = "Linear", rows: int = MANY_ROWS) -> list[str]:
    """y float16 = x W + b, or its maximum with 0 where `kind` is LinearRelu."""
    w = f"{y}_weights"
    return [*weights(w, *names), f"{w}_half = Cast <to = 10> ({w}_bias)", f"{y} = {DOMAIN}.{kind}{tuned(rows)} ({x}, {w}, {w}_half)"]


def linear_add(x: str, y: str, name: str, residual: str, rows: int = MANY_ROWS) -> list[str]:
    """y float32 = residual + x W + b."""
    w = f"{y}_weights"
    return [*weights(w, name), f"{y} = {DOMAIN}.LinearAdd{tuned(rows)} ({x}, {w}, {w}_bias, {residual})"]


def normalize(x: str, y: str, epsilon: float) -> str:
    return f"{y} = {DOMAIN}.NormalizeRows <epsilon = {epsilon!r}> ({x})"


def begin_graph(config: dict) -> str:
    d = config["d_model"]
    return f"""
    begin (int32[rows, 8] rows, int32[rows] ids, float[pool, {d}] state, float[pool, {d}] accumulator, float[pool, 1] halting)
       => (float[pool, {d}] state_out, float[pool, {d}] accumulator_out, float[pool, 1] halting_out) {{
      state_out, accumulator_out, halting_out = {DOMAIN}.StartRows <factor = {math.sqrt(d)!r}>
        (rows, ids, "emb", "emb.scale", state, accumulator, halting)
    }}"""


def begin_lanes_graph(config: dict) -> str:
    """`active`, `threshold`: the whole tables, of which the rows that `pieces` names are written."""
    d = config["d_model"]
    return f"""
    begin_lanes (int32[pieces, 8] pieces, float[pieces] thresholds, int32[rows] ids, int32[table, 8] active, float[table, 1] threshold,
                 float[pool, {d}] state, float[pool, {d}] accumulator, float[pool, 1] halting)
       => (int32[table, 8] active_out, float[table, 1] threshold_out, float[pool, {d}] state_out, float[pool, {d}] accumulator_out,
           float[pool, 1] halting_out) {{
      active_out, threshold_out, state_out, accumulator_out, halting_out = {DOMAIN}.StartLanes <factor = {math.sqrt(d)!r}>
        (pieces, thresholds, ids, "emb", "emb.scale", active, threshold, state, accumulator, halting)
    }}"""


def tile_graph() -> str:
    return f"""
    tile (int32[active, 8] active, int32[tile_all, 2] tile_table) => (int32[tile_all, 2] tiles_out, int32[{PROGRESS}] progress) {{
      tiles_out, progress = {DOMAIN}.TileRows (active, tile_table)
    }}"""


def attend_lines(config: dict, prefix: str, rows: int) -> list[str]:
    """From the pools to y = x + self-attention, with the halting of active rows. In a decoder each row sees keys of its own."""
    kind, tiles = ("RowAttention", "") if prefix == "dec." else ("TiledAttention", "tiles, ")
    heads, epsilon = config["heads"], config["layer_norm_eps"]
    return [
        f"normalised, x, weight, halted, remainder, halting_out = {DOMAIN}.AdaptiveInput <epsilon = {epsilon!r}> "
        f'(active, renewed, threshold, state, halting, "positions", "steps", "{prefix}halt", "{prefix}halt.bias")',
        *linear("normalised", "qkv", f"{prefix}q", f"{prefix}kv", rows=rows),
        f"keys_out, values_out = {DOMAIN}.WriteCache (active, renewed, qkv, keys, values)",
        f"attended = {DOMAIN}.{kind} <heads = {heads}> (qkv, keys_out, values_out, active, {tiles}key_index)",
        *linear_add("attended", "y", f"{prefix}o", "x", rows),
    ]


def transition_lines(config: dict, prefix: str, y: str, rows: int) -> list[str]:
    """From y to the pools: z = y + the transition."""
    return [
        normalize(y, "transition_input", config["layer_norm_eps"]),
        *linear("transition_input", "hidden", f"{prefix}f1", kind="LinearRelu", rows=rows),
        *linear_add("hidden", "z", f"{prefix}f2", y, rows),
        f"state_out, accumulator_out = {DOMAIN}.WriteRows (active, z, weight, state, accumulator)",
    ]


def step_inputs(d: int, tiles: str = "int32[tile, 2] tiles, ") -> str:
    return (
        f"int32[active, 8] active, int32[renewed, 8] renewed, float[active, 1] threshold, {tiles}int32[key] key_index, "
        f"float[pool, {d}] state, float[pool, {d}] accumulator, float[pool, 1] halting, "
        f"float16[cache, {d}] keys, float16[cache, {d}] values"
    )


def step_outputs(d: int) -> str:
    return (
        f"float[pool, {d}] state_out, float[pool, {d}] accumulator_out, float[pool, 1] halting_out, "
        f"float16[cache, {d}] keys_out, float16[cache, {d}] values_out"
    )


def step_graph(config: dict, prefix: str) -> str:
    """A language model's step or an encoder's: `progress` tells the host what runs on."""
    d = config["d_model"]
    rows = ENCODER_ROWS if prefix == "enc." else MANY_ROWS
    lines = [
        *attend_lines(config, prefix, rows),
        *transition_lines(config, prefix, "y", rows),
        f"active_out, threshold_out, renewed_out, tiles_out, depths_out, remainders_out, progress = {DOMAIN}.CompactRows "
        "(active, threshold, halted, remainder, renewed, renewed_table, tile_table, depths, remainders, state_out)",
    ]
    body = "\n      ".join(lines)
    return f"""
    step ({step_inputs(d)}, int32[table, 8] renewed_table, int32[tile_all, 2] tile_table, int32[pool] depths, float[pool] remainders)
       => ({step_outputs(d)}, int32[active, 8] active_out, float[active, 1] threshold_out, int32[table, 8] renewed_out,
           int32[tile_all, 2] tiles_out, int32[pool] depths_out, float[pool] remainders_out, int32[{PROGRESS}] progress) {{
      {body}
    }}"""


def decoder_step_graph(config: dict) -> str:
    """`seen` [active, 2]: where the memory of each row's sentence begins in memory_key_index, and how many keys it has."""
    d, heads = config["d_model"], config["heads"]
    lines = [
        *attend_lines(config, "dec.", DECODER_ROWS),
        normalize("y", "memory_input", config["layer_norm_eps"]),
        *linear("memory_input", "memory_queries", "dec.xq", rows=DECODER_ROWS),
        f"recalled = {DOMAIN}.RowMemoryAttention <heads = {heads}> "
        "(memory_queries, memory_keys, memory_values, active, memory_key_index, seen)",
        *linear_add("recalled", "w", "dec.xo", "y", DECODER_ROWS),
        *transition_lines(config, "dec.", "w", DECODER_ROWS),
    ]
    body = "\n      ".join(lines)
    return f"""
    decoder_step ({step_inputs(d, tiles="")}, float16[memory, {d}] memory_keys, float16[memory, {d}] memory_values,
                  int32[memory_key] memory_key_index, int32[active, 2] seen)
       => ({step_outputs(d)}, bool[active, 1] halted, float[active, 1] remainder) {{
      {body}
    }}"""


def output_lines(config: dict, prefix: str, grouped: bool) -> list[str]:
    """Logits LNf(accumulator) E^T for the embedding E = scale Q: 8-bit Q is exact in float16, its scales are left to what follows the
    product. `grouped`: what a softmax needs of every 64 of them; else products [rows, vocabulary]."""
    groups = f'peaks, sums, words = {DOMAIN}.LogitGroups (out, emb_half, "emb.scale")'
    return [
        f'out = {DOMAIN}.ReadSums <epsilon = {config["layer_norm_eps"]!r}> (accumulator, slots, "{prefix}lnf.gain", "{prefix}lnf.shift")',
        "last = Constant <value_ints = [-1]> ()",
        'emb_half = Cast <to = 10> ("emb")',
        groups if grouped else f"products = {DOMAIN}.Logits (out, emb_half)",
    ]


BEST = f"top_logprobs, top_ids = {DOMAIN}.TopLogProbs (products, \"emb.scale\", k)"


def finish_graph(config: dict, top: bool) -> str:
    """`top`: and the k best, for which logits are written."""
    lines = output_lines(config, "", grouped=not top)
    chosen = "TargetLogProb (products," if top else "GroupedTargetLogProb (peaks, sums, out, emb_half,"
    lines += [f'logprob = {DOMAIN}.{chosen} "emb.scale", targets)']
    lines += [f"depth, remainder = {DOMAIN}.ReadHalting (depths, remainders, slots)", *([BEST] if top else [])]
    inputs, outputs = (", int64[1] k", ", float[rows, k_size] top_logprobs, int32[rows, k_size] top_ids") if top else ("", "")
    body = "\n      ".join(lines)
    return f"""
    finish{"_top" if top else ""} (float[pool, {config["d_model"]}] accumulator, int32[rows] slots, int32[rows] targets, int32[pool] depths,
            float[pool] remainders{inputs})
       => (float[rows] logprob, int32[rows] depth, float[rows] remainder{outputs}) {{
      {body}
    }}"""


def decoder_finish_graph(config: dict) -> str:
    body = "\n      ".join([*output_lines(config, "dec.", grouped=False), BEST])
    return f"""
    decoder_finish (float[pool, {config["d_model"]}] accumulator, int32[rows] slots, int64[1] k)
       => (float[rows, k_size] top_logprobs, int32[rows, k_size] top_ids) {{
      {body}
    }}"""


def decoder_best_graph(config: dict) -> str:
    """decoder_finish for k = 1."""
    best = f'top_logprobs, top_ids = {DOMAIN}.GroupedBest (peaks, sums, words, "emb.scale")'
    body = "\n      ".join([*output_lines(config, "dec.", grouped=True), best])
    return f"""
    decoder_best (float[pool, {config["d_model"]}] accumulator, int32[rows] slots)
       => (float[rows, 1] top_logprobs, int32[rows, 1] top_ids) {{
      {body}
    }}"""


def encoder_finish_graph(config: dict) -> str:
    """k', v' = split(W_xkv LNf(accumulator) + b), into the memory pools at the rows' cache_row."""
    d = config["d_model"]
    lines = [
        f"out = {DOMAIN}.ReadNormalized <epsilon = {config['layer_norm_eps']!r}> (accumulator, slots)",
        *linear("out", "kv", "enc.xkv", rows=ENCODER_ROWS),
        f"memory_keys_out, memory_values_out = {DOMAIN}.WriteMemory (rows, kv, memory_keys, memory_values)",
        f"depth, remainder = {DOMAIN}.ReadHalting (depths, remainders, slots)",
    ]
    body = "\n      ".join(lines)
    return f"""
    encoder_finish (float[pool, {d}] accumulator, int32[rows] slots, int32[rows, 8] rows, float16[memory, {d}] memory_keys,
                    float16[memory, {d}] memory_values, int32[pool] depths, float[pool] remainders)
       => (float16[memory, {d}] memory_keys_out, float16[memory, {d}] memory_values_out, int32[rows] depth, float[rows] remainder) {{
      {body}
    }}"""


def graph_texts(config: dict) -> dict[str, str]:
    if config["task"] == "lm":
        return {
            "begin": begin_graph(config),
            "begin_lanes": begin_lanes_graph(config),
            "tile": tile_graph(),
            "step": step_graph(config, ""),
            "finish": finish_graph(config, top=False),
            "finish_top": finish_graph(config, top=True),
        }
    return {
        "begin": begin_graph(config),
        "begin_lanes": begin_lanes_graph(config),
        "tile": tile_graph(),
        "encoder_step": step_graph(config, "enc."),
        "encoder_finish": encoder_finish_graph(config),
        "decoder_step": decoder_step_graph(config),
        "decoder_finish": decoder_finish_graph(config),
        "decoder_seat": seat_graph(),
        "decoder_advance": advance_graph(config, "decoder_advance", plans=1),
        "decoder_settle": advance_graph(config, "decoder_settle", plans=0),
        "decoder_best": decoder_best_graph(config),
    }

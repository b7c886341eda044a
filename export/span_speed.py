"""What attention spans save: `python export/span_speed.py packages OUT`, `... attention` and, for a GPU, `... graphs OUT`.

`packages` writes two packages of random weights with the published shape of 12 layers x 512, S = 8192: `paper-spans`, whose heads have
spans as published (314 keys on average, the lowest five layers at the ramp), and `full-span`, whose heads look back S keys. Speed does
not depend on what the weights are. `npm run loadtest -- spans --models OUT` compares them in the engine.

`attention` times attention alone, with the same operators: heads in groups of like span against every head of a layer at the layer's
widest, rounded to 64, as the published code trims. The two take turns in one process; ratios are taken round by round. With
one thread, CPU time is the work itself, whatever else the machine does.

`graphs` writes the same two for loadtest/gpu/span-attention.ts, as the GPU runs them: one operator a layer. Its kernel leaves out what a
head's own span hides, which the published code does not; so the heads of `widest` have the layer's widest span, and `widest-masked` tells
what the kernel saves there by itself.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import save_file

import adaptive_span_onnx as span_onnx
import export
import functions
import span_layer
from adaptive_span import MASK, SpanShape, expected
from harness import commit, machine
from universal_transformer_onnx import build

PAPER = SpanShape(layers=12, d_model=512, heads=8, d_ff=2048, span_max=8192, vocab=256, dynamic=False)
MEAN_SPAN = 314
LAYERS_AT_RAMP = 5
# The published code trims to multiples of this.
TRIM = 64


def paper_keys(s: SpanShape = PAPER) -> list[list[int]]:
    """Keys of each layer and head, ramp included: the lowest layers at the ramp, the others spread evenly in the logarithm from twice
    the ramp up, alike in each layer, so that the mean over all heads is the published one. The published figures give no list."""
    rest = (MEAN_SPAN * s.layers - (s.ramp + 1) * LAYERS_AT_RAMP) / (s.layers - LAYERS_AT_RAMP)
    least = 2.0 * s.ramp
    low, high = least, float(s.span_max)
    for _ in range(60):
        widest = (low + high) / 2
        heads = np.geomspace(least, widest, s.heads)
        low, high = (widest, high) if heads.mean() < rest else (low, widest)
    upper = [round(x) for x in np.geomspace(least, low, s.heads).tolist()]
    return [[s.ramp + 1] * s.heads if i < LAYERS_AT_RAMP else upper for i in range(s.layers)]


def random_checkpoint(path: Path, s: SpanShape, keys: list[list[int]]) -> None:
    generator = torch.Generator().manual_seed(7)
    weights = {}
    for name, dims in expected(s).items():
        weights[name] = torch.randn(dims, generator=generator) * (0.02 if len(dims) > 1 else 0.1)
        if "norm" in name and name.endswith("weight"):
            weights[name] = weights[name] + 1
    for i, layer in enumerate(keys):
        # A head at S looks back all the way; the others z = keys - R, so that ceil(z + R) is what is asked for.
        z = [1.0 if k == s.span_max else (k - s.ramp) / s.span_max for k in layer]
        weights[f"{MASK.format(i)}.current_val"] = torch.tensor(z).reshape(s.heads, 1, 1)
    save_file(weights, path)
    provenance = {"data": "none", "recipe": "random weights of a published shape", "licence": "none"}
    about = {"language": "en", "provenance": provenance, "quality": {}}
    path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(about))


def write_packages(out: Path) -> None:
    full = [[PAPER.span_max] * PAPER.heads for _ in range(PAPER.layers)]
    for name, keys in (("paper-spans", paper_keys()), ("full-span", full)):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / f"{name}.safetensors"
            random_checkpoint(checkpoint, PAPER, keys)
            # No golden texts: PyTorch at full width would take minutes, and nothing here is compared with it.
            export.export_span(checkpoint, out / name, golden_texts=())
        print(f"{out / name}: mean {np.mean(keys):.1f} keys, widest {np.max(keys)}")


def widest_groups(s: SpanShape, keys: list[list[int]]) -> list[list[dict]]:
    """Every layer as the published code trims it: all heads as wide as its widest, a multiple of TRIM."""
    return [[{"heads": list(range(s.heads)), "span": min(s.span_max, math.ceil(max(layer) / TRIM) * TRIM)}] for layer in keys]


class Attention:
    """Mask and attention of all layers for one block, from queries, keys and values to what the heads say."""

    def __init__(self, s: SpanShape, keys: list[list[int]], groups: list[list[dict]], block: int, threads: int, folder: Path):
        generator = np.random.default_rng(3)
        random = lambda *dims: generator.standard_normal(dims, dtype=np.float32) * 0.1  # noqa: E731
        inputs, outputs, lines, constants = ["float[1, 1, 1, 1] cap"], [], ["axis1 = Constant <value_ints = [1]> ()"], {}
        self.feeds = {"cap": np.full((1, 1, 1, 1), 1e9, np.float32)}
        constants["pe"] = torch.from_numpy(random(s.d_head, s.span_max))
        constants["distance"] = torch.arange(s.span_max - 1, -1, -1).float()
        lines.append(f"end = Constant <value_ints = [{s.span_max}]> ()")
        for width in sorted({g["span"] for layer in groups for g in layer}):
            inputs.append(f"int32[1, {width + block}] window{width}")
            self.feeds[f"window{width}"] = np.arange(1, width + block + 1, dtype=np.int32)[None]
            lines += [
                f"far{width} = Constant <value_ints = [{s.span_max - width}]> ()",
                f'pe{width} = Slice ("pe", far{width}, end, axis1)',
                f'distance{width} = Slice ("distance", far{width}, end)',
            ]
        for h in sorted({len(g["heads"]) for layer in groups for g in layer}):
            lines.append(f"heads{h} = Constant <value = int32[1, {h}, 1] {{{', '.join(map(str, range(h)))}}}> ()")
        for i, layer in enumerate(groups):
            for j, g in enumerate(layer):
                tag, h, width = f"{i}_{j}", len(g["heads"]), g["span"]
                rows = 1 + width + block
                inputs += [f"float[1, {h}, {block}, {s.d_head}] q{tag}"]
                inputs += [f"float[{rows}, {h * s.d_head}] {name}{tag}" for name in ("k", "v")]
                self.feeds |= {f"q{tag}": random(1, h, block, s.d_head)}
                self.feeds |= {f"{name}{tag}": random(rows, h * s.d_head) for name in ("k", "v")}
                constants[f"z{i}.{j}"] = torch.tensor([float(keys[i][head] - s.ramp) for head in g["heads"]]).reshape(1, h, 1, 1)
                outputs.append(f"float[1, {block}, {h * s.d_head}] o{tag}")
                lines += [
                    f'bias{tag} = {functions.DOMAIN}.SpanMask <ramp = {float(s.ramp)}> ("z{i}.{j}", cap, distance{width})',
                    f"o{tag} = {functions.DOMAIN}.SpanAttention (q{tag}, k{tag}, v{tag}, window{width}, heads{h}, pe{width}, bias{tag})",
                ]
        body = "\n".join(lines)
        model = build(f"attention ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {body} }}", constants, span_functions(s))
        export.place(model, export.write_weights(folder / "weights.bin", constants), "weights.bin")
        (folder / "attention.onnx").write_bytes(model.SerializeToString())
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False
        self.session = ort.InferenceSession(folder / "attention.onnx", options, providers=["CPUExecutionProvider"])

    def __call__(self) -> tuple[float, float]:
        """Seconds and CPU seconds of one block."""
        began, cpu = time.perf_counter(), time.process_time()
        self.session.run(None, self.feeds)
        return time.perf_counter() - began, time.process_time() - cpu


def span_functions(s: SpanShape) -> tuple[str, ...]:
    return span_onnx.span_mask(), span_onnx.span_attention(s.d_head)


def layer_graph(s: SpanShape, groups: list[list[dict]], variant: str) -> str:
    """Attention of all layers over pools that stand: qkv [r, 3 d] for all of them -> o{i} [r, d]."""
    inputs, outputs, lines = [f"float[r, {3 * s.d_model}] qkv", "float[u, 1, 1, 1] cap"], [], []
    inputs += [f"int32[u, window{width}] window{width}" for width in sorted({g["span"] for layer in groups for g in layer})]
    for i, layer in enumerate(groups):
        for j, g in enumerate(layer):
            inputs += [f"float[pool{i}_{j}, {len(g['heads']) * s.d_head}] {name}{i}_{j}" for name in ("keys", "values")]
        pools = ", ".join(f"keys{i}_{j}, values{i}_{j}, window{g['span']}" for j, g in enumerate(layer))
        heads = ", ".join(str(len(g["heads"])) for g in layer)
        attributes = f"heads = [{heads}], ramp = {float(s.ramp)}"
        operator = f"{functions.DOMAIN}.SpanHeads{len(layer)} <{attributes}>"
        lines.append(f'o{i} = {operator} (qkv, "{variant}.z{i}", cap, "pe", "distance", {pools})')
        outputs.append(f"float[r, {s.d_model}] o{i}")
    body = "\n".join(lines)
    return f"attention ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {body} }}"


def write_graphs(out: Path, s: SpanShape, keys: list[list[int]]) -> None:
    """per-head.onnx, widest.onnx, widest-masked.onnx, and plan.json with each one's groups."""
    out.mkdir(parents=True, exist_ok=True)
    narrow, wide = [span_onnx.groups_of(s, layer) for layer in keys], widest_groups(s, keys)
    all_alike = [[layer[0]["span"]] * s.heads for layer in wide]
    variants = {"per-head": (narrow, keys), "widest": (wide, all_alike), "widest-masked": (wide, keys)}
    generator = torch.Generator().manual_seed(3)
    constants = {"pe": torch.randn(s.d_head, s.span_max, generator=generator) * 0.1}
    constants["distance"] = torch.arange(s.span_max - 1, -1, -1).float()
    for name, (groups, spans) in variants.items():
        for i, layer in enumerate(groups):
            order = [head for g in layer for head in g["heads"]]
            constants[f"{name.replace('-', '')}.z{i}"] = torch.tensor([float(spans[i][head] - s.ramp) for head in order])
    places = export.write_weights(out / "weights.bin", constants)
    for name, (groups, _) in variants.items():
        counts = {len(layer) for layer in groups}
        called = [span_layer.span_heads(n, s.d_model, s.d_head, dynamic=False) for n in counts]
        model = build(layer_graph(s, groups, name.replace("-", "")), constants, (*span_functions(s), *called))
        export.place(model, places, "weights.bin")
        (out / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    groups_of = {
        name: [[{"heads": len(g["heads"]), "span": g["span"]} for g in layer] for layer in groups] for name, (groups, _) in variants.items()
    }
    shape = {"layers": s.layers, "heads": s.heads, "d_model": s.d_model, "span_max": s.span_max, "ramp": s.ramp}
    plan = {"shape": shape, "mean_keys": float(np.mean(keys)), "keys": keys, "groups": groups_of}
    (out / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")


def spread(values: list[float]) -> dict:
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def measure_attention(block: int, rounds: int, threads: int) -> dict:
    keys = paper_keys()
    plans = {"per_head": [span_onnx.groups_of(PAPER, layer) for layer in keys], "widest": widest_groups(PAPER, keys)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in plans}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for name, groups in plans.items():
            (Path(folder) / name).mkdir()
            runs[name] = Attention(PAPER, keys, groups, block, threads, Path(folder) / name)
            runs[name]()
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(run())
    ratios = lambda which: [w[which] / p[which] for w, p in zip(times["widest"], times["per_head"], strict=True)]  # noqa: E731
    return {
        "block": block,
        "rounds": rounds,
        "threads": threads,
        "mean_keys": round(float(np.mean(keys)), 1),
        "mean_widest": round(float(np.mean([layer[0]["span"] for layer in plans["widest"]])), 1),
        "per_head_cpu_ms": spread([1000 * cpu for _, cpu in times["per_head"]]),
        "widest_cpu_ms": spread([1000 * cpu for _, cpu in times["widest"]]),
        "ratio_by_cpu_time": spread(ratios(1)),
        "ratio_by_time": spread(ratios(0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packages = commands.add_parser("packages", help="write paper-spans and full-span")
    packages.add_argument("out", type=Path)
    attention = commands.add_parser("attention", help="time attention alone")
    attention.add_argument("--blocks", type=int, nargs="*", default=[128], help="tokens of a block")
    attention.add_argument("--rounds", type=int, default=15)
    attention.add_argument("--threads", type=int, default=1)
    graphs = commands.add_parser("graphs", help="write the graphs that loadtest/gpu/span-attention.ts times")
    graphs.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.command == "graphs":
        write_graphs(args.out, PAPER, paper_keys())
        return
    if args.command == "packages":
        write_packages(args.out)
        return
    figures = [measure_attention(block, args.rounds, args.threads) for block in args.blocks]
    print(json.dumps({"commit": commit(), "machine": machine(), "attention": figures}, indent=1))


if __name__ == "__main__":
    main()

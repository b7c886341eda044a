"""Compares the speed of translating with loops without the engine: `python export/translation_compare.py`, about 5 minutes when quiet.

Batches of 32 sentences, one of each test set, greedy, with as many threads each. In a round all take turns on one batch:

    server         the engine in int8, the 32 sentences as 32 clients' requests
    PyTorch        TranslationModel.greedy in float32 (dequantised weights), masks and no cache: the whole prefix again for each token
    PyTorch, last  the same without the logits of any position but the newest, which greedy decoding does not need (first round only)
    node, again    the same algorithm over the package's int8 graphs with onnxruntime-node's session.run (node/translate-loop.mjs)
    node, cache    the same with keys and values kept for each step, as those of a Transformer for each layer; not shared by depth
    CTranslate2    a Transformer of fixed depth (6 + 6 layers, as wide), random weights, int8; every target forced to the mean length of
                   the server's, which keeps its batch full

Then 32 clients translate more sentences, for the rows the decoder computed against the bound that depth sets. Prints tables of medians
and writes a JSON report; exits with 1 when a limit is missed. On a shared machine only ratios within a run say anything, and tokens per
second of CPU time more than those; with --threads 1, since pools of threads spin while they wait.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from export import write_json
from harness import ROOT, commit, machine, model_folder
from translation_harness import MODEL, NODE, TEST_SETS, Engine, read_pairs, reference_translation, translation_config
from translation_pytorch import MAX_NEW_TOKENS, LastLogits
from universal_transformer import TranslationModel

LIMITS = {"PyTorch": 8.0, "node, again": 3.0, "depth_bound": 0.9}

SENTENCES = 32
CLIENTS = 32
BOUND_SENTENCES = 256
LAYERS = 6
# Renewing a position's key and value costs this share of a row: 2 of the 14 d x d products of a decoder's block, and a norm.
RENEWAL_SHARE = 1 / 6


@dataclass
class Contender:
    """`translate`: seconds and target tokens (with </s>) of a batch. `pid`: the process that does the work."""

    name: str
    pid: int
    translate: Callable[[list[list[int]]], tuple[float, int]]
    rounds_max: int = 1000
    cpu: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def measure(self, name: str, batch: list[list[int]]) -> None:
        if len(self.seconds.get(name, [])) == self.rounds_max:
            return
        cpu_before = cpu_seconds(self.pid)
        seconds, self.tokens[name] = self.translate(batch)
        self.cpu.setdefault(name, []).append(cpu_seconds(self.pid) - cpu_before)
        self.seconds.setdefault(name, []).append(seconds)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class NodeLoop:
    """node/translate-loop.mjs as a child process; use as a context manager."""

    def __init__(self, threads: int):
        self.command = ["node", str(NODE / "translate-loop.mjs"), str(model_folder(MODEL)), "int8", str(threads)]

    def __enter__(self) -> NodeLoop:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()
        return self

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended without an answer")
        return json.loads(line)

    def ask(self, ids: list[list[int]], mode: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ids": ids, "mode": mode}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class FixedDepth:
    """CTranslate2 over random weights: 6 + 6 layers, pre-norm, ReLU, tied to nothing, vocabulary and width of the package."""

    def __init__(self, folder: Path, threads: int):
        import ctranslate2
        import numpy as np

        d, ff, self.vocabulary = (translation_config(model_folder(MODEL))[key] for key in ("d_model", "d_ff", "vocab"))
        draw = np.random.default_rng(1)
        spec = ctranslate2.specs.TransformerSpec.from_config((LAYERS, LAYERS), 8, pre_norm=True)

        def linear(layer: Any, out: int, into: int) -> None:
            layer.weight = (draw.standard_normal((out, into)) / into**0.5).astype(np.float32)
            layer.bias = np.zeros(out, np.float32)

        def norm(layer: Any) -> None:
            layer.gamma, layer.beta = np.ones(d, np.float32), np.zeros(d, np.float32)

        for stack, embedding in ((spec.encoder, spec.encoder.embeddings[0]), (spec.decoder, spec.decoder.embeddings)):
            embedding.weight = (draw.standard_normal((self.vocabulary, d)) / d**0.5).astype(np.float32)
            norm(stack.layer_norm)
            for layer in stack.layer:
                linear(layer.self_attention.linear[0], 3 * d, d)
                linear(layer.self_attention.linear[1], d, d)
                blocks = [layer.self_attention, layer.ffn]
                if stack is spec.decoder:
                    for part, out in zip(layer.attention.linear, (d, 2 * d, d), strict=True):
                        linear(part, out, d)
                    blocks.append(layer.attention)
                linear(layer.ffn.linear_0, ff, d)
                linear(layer.ffn.linear_1, d, ff)
                for block in blocks:
                    norm(block.layer_norm)
        linear(spec.decoder.projection, self.vocabulary, d)
        tokens = ["<pad>", "<s>", "</s>", "<unk>", *(f"t{i}" for i in range(4, self.vocabulary))]
        spec.register_source_vocabulary(tokens)
        spec.register_target_vocabulary(tokens)
        spec.config.add_source_eos = False  # the ids have theirs
        spec.validate()
        spec.optimize(quantization="int8")
        folder.mkdir()
        spec.save(str(folder))
        self.version = ctranslate2.__version__
        self.translator = ctranslate2.Translator(str(folder), compute_type="int8", inter_threads=1, intra_threads=threads)

    def translate(self, sources: list[list[int]], target_tokens: int) -> tuple[float, int]:
        texts = [[f"t{max(4, token)}" for token in ids] for ids in sources]
        length = {"min_decoding_length": target_tokens, "max_decoding_length": target_tokens}
        began = time.perf_counter()
        results = self.translator.translate_batch(texts, beam_size=1, **length)
        return time.perf_counter() - began, sum(len(result.hypotheses[0]) for result in results)


def target_lengths(results: list[dict]) -> list[int]:
    return [len(result["hypotheses"][0]["depths"]) for result in results]


def draw_batches(seed: int) -> dict[str, list[list[int]]]:
    draw = random.Random(seed)
    return {name: draw.sample(read_pairs(name).ids, SENTENCES) for name in TEST_SETS}


def measure(engine: Engine, node: NodeLoop, fixed: FixedDepth, rounds: int, batches: dict[str, list[list[int]]]) -> list[Contender]:
    plain, last = (reference_translation(model_folder(MODEL), kind) for kind in (TranslationModel, LastLogits))
    lengths = {}

    def by_server(batch: list[list[int]]) -> tuple[float, int]:
        reply = engine.ask([{"ids": ids, "max_new_tokens": MAX_NEW_TOKENS} for ids in batch], CLIENTS)
        return reply["seconds"], sum(target_lengths(reply["results"]))

    def by_pytorch(model: TranslationModel) -> Callable[[list[list[int]]], tuple[float, int]]:
        def translate(batch: list[list[int]]) -> tuple[float, int]:
            began = time.perf_counter()
            done = model.greedy(batch, MAX_NEW_TOKENS)
            return time.perf_counter() - began, sum(len(t.ids) for t in done)

        return translate

    def by_node(mode: str) -> Callable[[list[list[int]]], tuple[float, int]]:
        def translate(batch: list[list[int]]) -> tuple[float, int]:
            reply = node.ask(batch, mode)
            return reply["seconds"], sum(len(result["depths"]) for result in reply["results"])

        return translate

    def by_fixed(batch: list[list[int]]) -> tuple[float, int]:
        return fixed.translate(batch, lengths[json.dumps(batch)])

    contenders = [
        Contender("server", engine.process.pid, by_server),
        Contender("PyTorch", os.getpid(), by_pytorch(plain)),
        Contender("PyTorch, last", os.getpid(), by_pytorch(last), rounds_max=1),
        Contender("node, again", node.process.pid, by_node("recompute")),
        Contender("node, cache", node.process.pid, by_node("cache")),
        Contender("CTranslate2", os.getpid(), by_fixed),
    ]
    for batch in batches.values():
        lengths[json.dumps(batch)] = round(statistics.mean(target_lengths(engine.translate(batch))))
    for contender in contenders:  # warm-up
        contender.translate(next(iter(batches.values())))
    for _ in range(rounds):
        for name, batch in batches.items():
            for contender in contenders:
                contender.measure(name, batch)
                time.sleep(0.2)  # threads of the one before stop spinning
    return contenders


def summary(contenders: list[Contender]) -> dict:
    """Medians of each set, and of all sets as if done one after another."""
    out: dict = {}
    for c in contenders:
        medians = {name: statistics.median(seconds) for name, seconds in c.seconds.items()}
        cpu = {name: statistics.median(seconds) for name, seconds in c.cpu.items()}
        sets = {name: {"seconds": round(s, 4), "cpu_seconds": round(cpu[name], 2), "tokens": c.tokens[name]} for name, s in medians.items()}
        total, total_cpu = sum(medians.values()), sum(cpu.values())
        sets["all"] = {"seconds": round(total, 4), "cpu_seconds": round(total_cpu, 2), "tokens": sum(c.tokens.values())}
        for name, entry in sets.items():
            sentences = SENTENCES * (len(medians) if name == "all" else 1)
            entry["sentences_per_second"] = round(sentences / entry["seconds"], 2)
            entry["tokens_per_second"] = round(entry["tokens"] / entry["seconds"], 1)
            entry["tokens_per_cpu_second"] = round(entry["tokens"] / max(0.01, entry["cpu_seconds"]), 1)
        out[c.name] = {"sets": sets, "rounds": {name: [round(s, 4) for s in seconds] for name, seconds in c.seconds.items()}}
    server = contenders[0]
    for c in contenders[1:]:
        # Of the same round, so that a slow minute of the machine falls on both.
        pairs = [[b / a for a, b in zip(server.seconds[name], c.seconds[name], strict=False)] for name in server.seconds]
        ratios = {name: round(statistics.median(values), 2) for name, values in zip(server.seconds, pairs, strict=True)}
        totals = [sum(c.seconds[n][i] for n in c.seconds) / sum(server.seconds[n][i] for n in c.seconds) for i in range(len(pairs[0]))]
        out[c.name]["server_times_faster"] = ratios | {"all": round(statistics.median(totals), 2)}
    return out


def depth_bound(engine: Engine, seed: int) -> dict:
    """What 32 clients make the decoder compute against the sum of the depths that were needed."""
    draw = random.Random(seed)
    ids = [source for name in TEST_SETS for source in draw.sample(read_pairs(name).ids, BOUND_SENTENCES // len(TEST_SETS))]
    draw.shuffle(ids)
    out = {}
    for beam in (1, 4):
        reply = engine.ask([{"ids": source, "beam": beam, "max_new_tokens": MAX_NEW_TOKENS} for source in ids], CLIENTS)
        stage = reply["stages"]["decoder"]
        # Greedy: the depths of the tokens said. A beam's rows include those of hypotheses that were dropped.
        depths = [sum(r["hypotheses"][0]["depths"]) if beam == 1 else r["decoder_steps"] for r in reply["results"]]
        computed = stage["activeRows"] + stage["renewedRows"] * RENEWAL_SHARE
        tokens = sum(target_lengths(reply["results"]))
        counts = {"bound": sum(depths), "active_rows": stage["activeRows"], "renewed_rows": stage["renewedRows"], "steps": stage["steps"]}
        counts |= {"tokens": tokens, "seconds": round(reply["seconds"], 2), "share_of_bound": round(sum(depths) / computed, 4)}
        host = sum(s["hostSeconds"] for s in reply["stages"].values()) / sum(
            s["hostSeconds"] + s["computeSeconds"] for s in reply["stages"].values()
        )
        out[f"beam {beam}"] = counts | {"sentences": len(ids), "host_share": round(host, 4)}
    return out


def tables(result: dict, bound: dict) -> str:
    names = [name for name in next(iter(result.values()))["sets"]]
    lines = ["| sentences/s (tokens/s) | " + " | ".join([*names, "tokens per second of CPU time"]) + " |", "|---" * (len(names) + 2) + "|"]
    for name, entry in result.items():
        cells = [f"{entry['sets'][n]['sentences_per_second']:.1f} ({entry['sets'][n]['tokens_per_second']:,.0f})" for n in names]
        cells.append(f"{entry['sets']['all']['tokens_per_cpu_second']:,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| the server is faster than | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, entry in result.items():
        if "server_times_faster" in entry:
            cells = [f"{entry['server_times_faster'][n]:.2f}x" for n in names]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    head = f"decoder, {CLIENTS} clients | sum of depths | rows computed | renewed | share of the bound | rows a step | host share"
    lines += ["", f"| {head} | tokens/s |", "|---" * 8 + "|"]
    for name, b in bound.items():
        rows = f"{b['bound']:,} | {b['active_rows']:,} | {b['renewed_rows']:,} | {b['share_of_bound']:.3f}"
        lines.append(
            f"| {name} | {rows} | {b['active_rows'] / b['steps']:.1f} | {b['host_share']:.1%} | {b['tokens'] / b['seconds']:,.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20180703)
    parser.add_argument("--threads", type=int, default=2, help="of each contender")
    parser.add_argument("--report", type=Path, default=ROOT / "export" / "reports" / "translation-compare.json", help="JSON to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    batches = draw_batches(args.seed)
    with Engine("int8", args.threads) as engine, NodeLoop(args.threads) as node, tempfile.TemporaryDirectory() as folder:
        fixed = FixedDepth(Path(folder) / "model", args.threads)
        result = summary(measure(engine, node, fixed, args.rounds, batches))
        bound = depth_bound(engine, args.seed)
        same = {mode: agreement(engine, node, mode, batches) for mode in ("recompute", "cache")}
    print(tables(result, bound))
    reached = {name: result[name]["server_times_faster"]["all"] for name in LIMITS if name in result}
    reached["depth_bound"] = bound["beam 1"]["share_of_bound"]
    about = {"model": MODEL, "commit": commit(), "machine": machine(), "threads": args.threads, "seed": args.seed}
    about |= {"ctranslate2": fixed.version, "sentences_a_batch": SENTENCES, "rounds": args.rounds}
    args.report.parent.mkdir(parents=True, exist_ok=True)
    report = {"limits": LIMITS, "reached": reached, "same_translations_as_server": same, "contenders": result, "depth_bound": bound}
    write_json(args.report, about | report)
    missed = {name: value for name, value in reached.items() if value < LIMITS[name]}
    print(f"\nsame translations as the server, of {SENTENCES * len(batches)}: {same}")
    print(f"reached {reached}, limits {LIMITS}: {'MISSED ' + str(missed) if missed else 'met'}")
    return 1 if missed else 0


def agreement(engine: Engine, node: NodeLoop, mode: str, batches: dict[str, list[list[int]]]) -> int:
    """Sentences that the loop over the same int8 graphs translates to the same tokens."""
    same = 0
    for batch in batches.values():
        for a, b in zip(engine.translate(batch), node.ask(batch, mode)["results"], strict=True):
            same += a["hypotheses"][0]["ids"] == b["ids"] and a["hypotheses"][0]["depths"] == b["depths"]
    return same


if __name__ == "__main__":
    sys.exit(main())

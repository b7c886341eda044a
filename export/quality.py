"""Measures what a package is worth on real text: `python export/quality.py` prints a table and writes a JSON report.

Bits per byte, perplexity and mean depth of three arithmetics: PyTorch in float32 on the checkpoint's own weights, and the server
in float32 and int8 on the package's. Windows of context - 1 tokens after `<s>`, without overlap, as the checkpoint's own figures.

Exits with 1 when int8 is not within LIMITS of PyTorch. With --write the figures go into the manifest's `quality`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from export import write_json
from harness import ROOT, Server, Text, checkpoint_folder, commit, machine, model_folder, read_text, windows
from universal_transformer import LanguageModel, load

SETS = ("wikipedia.test.txt", "wikipedia.valid.txt", "wikitext2.test.raw")

# int8 against PyTorch float32 on the first set.
LIMITS = {"bits_per_byte_worse": 0.005, "mean_depth_off": 0.02}

PYTORCH_BATCH = 8  # windows: [8, 511, 8192] float32 log-probabilities are 134 MB
SERVER_BATCH = 64  # windows a request


@dataclass
class Sums:
    """What is added up over windows. `logprob` in nats; `depths[n]`: tokens whose predicting position took n steps."""

    max_steps: int
    logprob: float = 0.0
    remainder: float = 0.0
    depths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.depths = [0] * (self.max_steps + 1)

    def add(self, logprob: float, remainder: float, depths: list[int]) -> None:
        self.logprob += logprob
        self.remainder += remainder
        self.depths = [a + b for a, b in zip(self.depths, depths, strict=True)]

    def figures(self, text: Text) -> dict:
        """Rounded to what 2 MB of text can tell apart, so that a last bit of a sum changes no file."""
        tokens = sum(self.depths)
        if tokens != len(text.ids):
            raise RuntimeError(f"{text.name}: {tokens} of {len(text.ids)} tokens were scored")
        steps = sum(n * count for n, count in enumerate(self.depths))
        return {
            "bits_per_byte": round(-self.logprob / text.bytes / math.log(2), 5),
            "perplexity": round(math.exp(-self.logprob / tokens), 3),
            "mean_depth": round(steps / tokens, 4),
            "ponder_cost": round((steps + self.remainder) / tokens, 4),
            "depth_histogram": {str(n): round(count / tokens, 5) for n, count in enumerate(self.depths) if n > 0},
        }


def batches(items: list, size: int, label: str) -> Iterator[list]:
    """Groups of `size`, with a line of progress on a terminal."""
    began = time.monotonic()
    for i in range(0, len(items), size):
        yield items[i : i + size]
        if sys.stderr.isatty():
            share = min(1.0, (i + size) / len(items))
            print(f"\r{label} {share:4.0%} {time.monotonic() - began:5.0f} s", end="\n" if share == 1 else "", file=sys.stderr, flush=True)


def measure_pytorch(model: LanguageModel, text: Text) -> dict:
    sums = Sums(model.config["max_steps"])
    for batch in batches(windows(text.ids, model.config["context"] - 1), PYTORCH_BATCH, f"PyTorch {text.name}"):
        for ids, (logprobs, ponder) in zip(batch, model.score(batch), strict=True):
            chosen = logprobs.gather(1, torch.tensor(ids)[:, None])
            depths = torch.bincount(ponder.depth, minlength=sums.max_steps + 1)
            sums.add(chosen.double().sum().item(), ponder.remainder.double().sum().item(), depths.tolist())
    return sums.figures(text)


def measure_server(server: Server, config: dict, label: str, text: Text) -> dict:
    window = config["context"] - 1
    sums = Sums(config["max_steps"])
    for ids in batches(text.ids, SERVER_BATCH * window, f"{label} {text.name}"):
        [result] = server.score(ids, stride=window, return_tokens=False)["results"]
        ponder = result["ponder"]
        steps = sum(n * count for n, count in enumerate(ponder["histogram"]))
        sums.add(result["logprob"], ponder["cost"] * len(ids) - steps, ponder["histogram"])
    return sums.figures(text)


def changes(figures: dict) -> dict:
    """int8 against PyTorch, as shares: positive bits are worse, depth either way."""
    pytorch, int8 = figures["pytorch"], figures["int8"]
    return {
        "bits_per_byte_worse": round(int8["bits_per_byte"] / pytorch["bits_per_byte"] - 1, 5),
        "mean_depth_off": round(abs(int8["mean_depth"] / pytorch["mean_depth"] - 1), 5),
    }


def table(sets: dict) -> str:
    lines = [
        "| text | bytes | arithmetic | bits per byte | perplexity | mean depth | against PyTorch: bits, depth |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in sets.items():
        base = entry["pytorch"]
        for key, label in (("pytorch", "PyTorch float32"), ("float32", "server float32"), ("int8", "server int8")):
            f = entry[key]
            bits, depth = (f[k] / base[k] - 1 for k in ("bits_per_byte", "mean_depth"))
            against = "" if key == "pytorch" else f"{bits:+.2%}, {depth:+.2%}"
            figures = f"{f['bits_per_byte']:.4f} | {f['perplexity']:.2f} | {f['mean_depth']:.3f}"
            lines.append(f"| {name} | {entry['bytes']:,} | {label} | {figures} | {against} |")
    return "\n".join(lines)


def write_manifest(folder: Path, sets: dict) -> None:
    """Sets `quality.measured`. The manifest is not hashed, and an export starts it anew: figures never outlive their weights."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    measured = {
        name: {key: value for key, value in entry.items() if key in ("bytes", "tokens", "pytorch", "float32", "int8")}
        for name, entry in sorted(sets.items())
    }
    window = manifest["dimensions"]["context"] - 1
    manifest["quality"]["measured"] = {"windows": f"{window} tokens after <s>, no overlap", "sets": measured}
    write_json(path, manifest)


def sets_of(report: Path, head: dict) -> dict:
    """The sets of an earlier report on the very same package: each takes minutes, so a run may add to what is there."""
    if not report.exists():
        return {}
    earlier = json.loads(report.read_text())
    return earlier["sets"] if {key: earlier.get(key) for key in head} == head else {}


def measure(name: str, sets: list[str], bytes_max: int | None, about: dict, save: Callable[[dict], None]) -> dict:
    """{set: figures}; `save` is called after each set."""
    config, weights = load(checkpoint_folder(name))
    model = LanguageModel(config, weights)
    done: dict = {}
    threads = ("--threads", str(about["threads"]))
    with Server("float32", name, *threads) as exact, Server("int8", name, *threads) as int8:
        for set_name in sets:
            text = read_text(set_name, checkpoint_folder(name) / "tokenizer.json", bytes_max)
            entry = {
                "int8": measure_server(int8, config, "int8", text),
                "float32": measure_server(exact, config, "float32", text),
                "pytorch": measure_pytorch(model, text),
            }
            sizes = {"bytes": text.bytes, "tokens": len(text.ids)}
            done[set_name] = {**about, **sizes, **entry, "int8_against_pytorch": changes(entry)}
            save(done)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ut-lm-en", help="name of the package and of its checkpoint")
    parser.add_argument(
        "--sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}; none: only report what is there"
    )
    parser.add_argument("--bytes", type=int, help="only the first so many bytes of each text")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and of the server")
    parser.add_argument("--report", type=Path, help="JSON to add to (default: export/reports/quality-MODEL.json, none with --bytes)")
    parser.add_argument("--write", action="store_true", help="store the figures in the manifest")
    args = parser.parse_args()
    if not set(args.sets) <= set(SETS):
        parser.error(f"--sets takes {', '.join(SETS)}")
    if args.write and args.bytes is not None:
        parser.error("--write stores figures of whole texts: leave --bytes out")
    torch.set_num_threads(args.threads)
    manifest = json.loads((model_folder(args.model) / "manifest.json").read_text())
    head = {"model": args.model, "files": {name: entry["sha256"] for name, entry in manifest["files"].items()}, "limits": LIMITS}
    about = {"commit": commit(), "machine": machine(), "threads": args.threads, "bytes_max": args.bytes}
    # Figures of a part never take the place of those of a whole text.
    report = args.report or (None if args.bytes else ROOT / "export" / "reports" / f"quality-{args.model}.json")
    earlier = sets_of(report, head) if report is not None else {}

    def save(done: dict) -> None:
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            write_json(report, {**head, "sets": {**earlier, **done}})

    sets = {**earlier, **(measure(args.model, args.sets, args.bytes, about, save) if args.sets else {})}
    print(table(sets))
    if args.write:
        write_manifest(model_folder(args.model), {name: entry for name, entry in sets.items() if entry["bytes_max"] is None})
    if SETS[0] not in sets:
        return 0
    judged = sets[SETS[0]]["int8_against_pytorch"]
    missed = {key: value for key, value in judged.items() if value > LIMITS[key]}
    print(f"int8 against PyTorch on {SETS[0]}: {judged}, limits {LIMITS}: {'MISSED' if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

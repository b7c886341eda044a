"""Is a package with attention spans the published model? `python export/span_parity.py` prints a table and writes a JSON report.

The server is asked over HTTP with token ids (`harness.py`); PyTorch computes the published equations, full-width masks and no
truncation, on the package's own weights. The checks, each by its name with `--checks`:

    pytorch   float32 against PyTorch, token by token
    int8      bits per byte of int8 against those of PyTorch on the same text
    blocks    one stream in blocks of 64, 256 and 512: bits per byte, and the server's memory meanwhile
    batch     int8, texts of many lengths and caps at once against each alone
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import adaptive_span
import adaptive_span_onnx as span_onnx
from export import START_BYTE, read_constants, write_json
from harness import ROOT, SHARED, Server, commit, machine

CHECKS = ("pytorch", "int8", "blocks", "batch")
BLOCKS = (64, 256, 512)
LIMITS = {"logprob_off": 1e-4, "int8_worse": 0.005, "bits_decimals": 5}

CAPS = (None, 0, 16, 100)


def text_ids(name: str, bytes_max: int) -> list[int]:
    """Its first bytes, up to the last whole character."""
    return list((SHARED / "eval" / "text" / name).read_bytes()[:bytes_max].decode(errors="ignore").encode())


def bits(logprob: float, ids: list[int]) -> float:
    return -logprob / len(ids) / math.log(2)


def pytorch_logprobs(checkpoint: Path, package: Path, ids: list[int]) -> torch.Tensor:
    """[n] of each token after START_BYTE and those before it, on the package's weights."""
    shape, weights = adaptive_span.load_checkpoint(checkpoint)
    model = adaptive_span.SpanModel(shape, span_onnx.reference_weights(shape, weights, read_constants(package)))
    everything = model.logprobs(torch.tensor([START_BYTE, *ids[:-1]]))
    return everything[torch.arange(len(ids)), torch.tensor(ids)]


class Memory:
    """Resident memory of a process in MiB, sampled while it works; use as a context manager."""

    def __init__(self, pid: int):
        self.path = Path(f"/proc/{pid}/status")
        self.samples: list[float] = []
        self.done = threading.Event()

    def __enter__(self) -> Memory:
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def _sample(self) -> None:
        while not self.done.wait(0.5):
            found = re.search(r"VmRSS:\s+(\d+)", self.path.read_text())
            if found:
                self.samples.append(int(found[1]) / 1024)

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def figures(self) -> dict:
        """The most of each quarter of the time: flat when the last is no more than the first."""
        quarter = max(1, len(self.samples) // 4)
        return {"quarters_mib": [round(max(self.samples[i * quarter : (i + 1) * quarter], default=0.0), 1) for i in range(4)]}


def events(server: Server, given: str | list[int], **fields: Any) -> Iterator[dict[str, Any]]:
    """The events of a stream, which says something every block, however long the text is."""
    body = json.dumps({"model": server.model, "input": given, "stream": True, **fields}, ensure_ascii=False).encode()
    request = urllib.request.Request(f"{server.url}/v1/score", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


def check_blocks(precision: str, options: tuple[str, ...], model: str, ids: list[int]) -> dict:
    """The streams run side by side, each on a server of its own with its own memory."""
    text = bytes(ids).decode()

    def stream(block: int) -> tuple[str, dict]:
        with Server(precision, model, *options, "--span-block-tokens", str(block)) as server, Memory(server.process.pid) as memory:
            last: dict = {}
            for event in events(server, text, return_tokens=False):
                last = event
        if last.get("type") != "result":
            raise RuntimeError(f"the stream ended with {last}")
        figures = {"bits_per_byte": round(bits(last["results"][0]["logprob"], ids), 7), **memory.figures()}
        print(f"blocks of {block}: {figures}", file=sys.stderr, flush=True)
        return str(block), figures

    with ThreadPoolExecutor(len(BLOCKS)) as pool:
        return dict(pool.map(stream, BLOCKS))


def check_batch(server: Server, ids: list[int]) -> dict:
    """Texts of lengths 1 to 1000 under several caps; returns how many differ in any bit. Needs 11,000 ids."""
    orders, at = [], 0
    for i in range(24):
        length = min(1 + (i * i * 37) % 1000, len(ids) - at)
        orders.append((ids[at : at + length], {} if CAPS[i % 4] is None else {"span_max": CAPS[i % 4]}))
        at += length
    score = lambda order: [t["logprob"] for t in server.score(order[0], **order[1])["results"][0]["tokens"]]  # noqa: E731
    alone = [score(order) for order in orders]
    with ThreadPoolExecutor(len(orders)) as pool:
        together = list(pool.map(score, orders))
    return {"texts": len(orders), "tokens": at, "differ": sum(a != b for a, b in zip(alone, together, strict=True))}


def write_manifest(package: Path, report: dict) -> None:
    """Sets `quality.measured`. The manifest is not hashed, and an export keeps it only with the same weights."""
    path = package / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["quality"]["measured"] = {
        "set": f"eval/text/{report['set']}, its first {report['bytes']} bytes, one stream",
        "bits_per_byte": {
            "pytorch": report["pytorch_bits_per_byte"],
            "float32": report["float32"]["bits_per_byte"],
            "int8": report["int8"]["bits_per_byte"],
        },
    }
    write_json(path, manifest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of the package")
    parser.add_argument("--model", default="span-lm-bytes")
    parser.add_argument("--set", default="wikipedia.valid.txt")
    parser.add_argument("--checks", nargs="*", default=list(CHECKS), choices=CHECKS)
    parser.add_argument("--bytes", type=int, default=100_000, help="of the text for pytorch and int8")
    parser.add_argument("--stream-bytes", type=int, default=1_000_000, help="of the text for blocks")
    parser.add_argument("--stream-precision", default="int8", choices=("int8", "float32"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help="store the figures of `pytorch` and `int8` in the manifest")
    parser.add_argument("--report", type=Path, help="JSON to write (default: export/reports/span-parity-MODEL.json)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = ("--models", str(args.models), "--threads", str(args.threads))
    ids = text_ids(args.set, args.bytes)
    report: dict[str, Any] = {"commit": commit(), "machine": machine(), "model": args.model, "set": args.set, "bytes": len(ids)}
    failed = []
    if {"pytorch", "int8"} & set(args.checks):
        checkpoint = ROOT / "export" / "train" / "checkpoints" / f"{args.model}.int8.safetensors"
        want = pytorch_logprobs(checkpoint, args.models / args.model, ids)
        report["pytorch_bits_per_byte"] = round(bits(want.double().sum().item(), ids), 6)
    if "pytorch" in args.checks:
        with Server("float32", args.model, *options) as server:
            got = torch.tensor([token["logprob"] for event in events(server, ids) for token in event.get("tokens", ())])
        off = (got - want).abs()
        report["float32"] = {
            "bits_per_byte": round(bits(got.double().sum().item(), ids), 6),
            "logprob_off_max": off.max().item(),
            "logprob_off_mean": off.mean().item(),
        }
        if off.max().item() > LIMITS["logprob_off"]:
            failed.append("float32 against PyTorch")
    if "int8" in args.checks:
        with Server("int8", args.model, *options) as server:
            int8 = bits(sum(event.get("logprob", 0.0) for event in events(server, ids, return_tokens=False)), ids)
        worse = int8 / report["pytorch_bits_per_byte"] - 1
        report["int8"] = {"bits_per_byte": round(int8, 6), "worse": round(worse, 6)}
        if worse > LIMITS["int8_worse"]:
            failed.append("int8 against PyTorch")
    if "batch" in args.checks:
        with Server("int8", args.model, *options) as server:
            report["batch"] = check_batch(server, ids)
        if report["batch"]["differ"]:
            failed.append("a batch against each alone")
    if "blocks" in args.checks:
        stream = text_ids(args.set, args.stream_bytes)
        report |= {"stream_bytes": len(stream), "stream_precision": args.stream_precision}
        report["blocks"] = check_blocks(args.stream_precision, options, args.model, stream)
        if len({round(entry["bits_per_byte"], LIMITS["bits_decimals"]) for entry in report["blocks"].values()}) > 1:
            failed.append("blocks of different length")
    if args.write and {"float32", "int8"} <= report.keys():
        write_manifest(args.models / args.model, report)
    write_json(args.report or ROOT / "export" / "reports" / f"span-parity-{args.model}.json", report)
    print(json.dumps(report, indent=1))
    for check in failed:
        print(f"FAILED: {check}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

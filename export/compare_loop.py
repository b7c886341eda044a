"""The baseline of the speed comparison: a plain PyTorch loop with masks, `python export/compare_loop.py`.

What serving such a model costs without compaction: a batch of sequences in float32, every position computed at every step until
the last one has halted, then masked. Weights are the package's, dequantised, so both sides compute the same figures.

Prints one line of JSON: tokens per second (the median of the repeats, after one warm-up batch), the sums that show the work was the
same, and the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from harness import ROOT, machine, read_text, reference_model, windows
from universal_transformer import LanguageModel

SET = "wikipedia.test.txt"


def read_sequences(package: Path, count: int, length: int) -> list[list[int]]:
    """The first `count` windows of `length` tokens of the evaluation text."""
    ids = read_text(SET, package / "tokenizer.json", bytes_max=16 * count * length).ids
    return windows(ids, length)[:count]


def score(model: LanguageModel, sequences: list[list[int]], batch: int) -> tuple[float, int, float]:
    """One pass over the sequences: seconds, position-steps (the depths summed) and the sum of log-probabilities in nats."""
    began = time.perf_counter()
    steps, logprob = 0, 0.0
    for ids in windows(sequences, batch):
        for tokens, (logprobs, ponder) in zip(ids, model.score(ids), strict=True):
            steps += int(ponder.depth.sum())
            logprob += logprobs.gather(1, torch.tensor(tokens)[:, None]).double().sum().item()
    return time.perf_counter() - began, steps, logprob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "models" / "ut-lm-en", help="folder of the package")
    parser.add_argument(
        "--sequences", type=Path, help="JSON, a list of lists of token ids (default: 16 x 128 tokens of the evaluation text)"
    )
    parser.add_argument("--batch", type=int, default=16, help="sequences of a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="passes over the sequences (default: 5; 1 with --sequences, whose caller repeats)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = reference_model(args.package)
    sequences = json.loads(args.sequences.read_text()) if args.sequences else read_sequences(args.package, 16, 128)
    repeats = args.repeats or (1 if args.sequences else 5)
    score(model, sequences[: args.batch], args.batch)
    passes = [score(model, sequences, args.batch) for _ in range(repeats)]
    seconds = statistics.median(s for s, _, _ in passes)
    tokens = sum(map(len, sequences))
    _, steps, logprob = passes[0]
    result = {
        "tokens_per_second": round(tokens / seconds, 1), "seconds": seconds, "tokens": tokens, "position_steps": steps, "logprob": logprob,
        "batch": args.batch, "repeats": repeats, "threads": args.threads, "precision": "float32", "machine": machine(),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Writes the token ids that both sides of the GPU comparison read: `python export/gpu_inputs.py .gpu/inputs`.

    windows.json      2,000 windows of wikipedia.valid.txt without overlap, their lengths log-normal as those of users' texts are
    windows32.json    256 windows of 32 tokens, from what follows
    sources.json      2,000 source sentences with </s>, a third from each test set, in random order
    references.json   their reference translations, as text: what gpu_parity.py measures BLEU against
    wikipedia.txt     the first 1,200,000 bytes of wikipedia.valid.txt, for models of bytes
    span-attention/   attention alone with the published spans, as graphs (span_speed.py)

The lists are JSON arrays, made where ../shared and the tokenizers are, for a machine that has neither.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import span_speed
from harness import SHARED, model_folder, read_text
from translation_harness import TEST_SETS, read_pairs

TEXT = "wikipedia.valid.txt"
SCORER = "ut-lm-en"
SEED = 20180703

WINDOWS = 2000
# With the bounds the mean is about 128 and the median about 100 tokens.
MEDIAN_TOKENS, SIGMA = 99, 0.75
SHORTEST, LONGEST = 16, 511  # with <s> the longest fills the model's context

SHORT_WINDOWS, SHORT_TOKENS = 256, 32
SENTENCES = 2000
BYTES = 1_200_000


def draw_lengths(count: int, draw: random.Random) -> list[int]:
    return [min(LONGEST, max(SHORTEST, round(MEDIAN_TOKENS * math.exp(draw.gauss(0, SIGMA))))) for _ in range(count)]


def cut(ids: list[int], lengths: list[int]) -> list[list[int]]:
    """Consecutive windows of these lengths. Raises ValueError when the text is too short for all of them."""
    if sum(lengths) > len(ids):
        raise ValueError(f"{sum(lengths)} tokens are needed and the text has {len(ids)}")
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def sentence_pairs(count: int, draw: random.Random) -> list[tuple[list[int], str]]:
    """Source ids and reference, as many of each test set as the count allows."""
    pairs = []
    for i, name in enumerate(TEST_SETS):
        share = (count - len(pairs)) // (len(TEST_SETS) - i)
        read = read_pairs(name)
        pairs += draw.sample(list(zip(read.ids, read.references, strict=True)), share)
    draw.shuffle(pairs)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    args = parser.parse_args()
    draw = random.Random(SEED)
    lengths = draw_lengths(WINDOWS, draw) + [SHORT_TOKENS] * SHORT_WINDOWS
    windows = cut(read_text(TEXT, model_folder(SCORER) / "tokenizer.json").ids, lengths)
    pairs = sentence_pairs(SENTENCES, draw)
    files = {
        "windows.json": windows[:WINDOWS],
        "windows32.json": windows[WINDOWS:],
        "sources.json": [ids for ids, _ in pairs],
        "references.json": [reference for _, reference in pairs],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (args.out / name).write_text(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
        lengths = [len(entry) for entry in value]
        print(f"{name}: {len(value)}, mean length {sum(lengths) / len(lengths):.1f}, {min(lengths)} to {max(lengths)}")
    text = (SHARED / "eval" / "text" / TEXT).read_bytes()[:BYTES]
    (args.out / "wikipedia.txt").write_bytes(text)
    span_speed.write_graphs(args.out / "span-attention", span_speed.PAPER, span_speed.paper_keys())


if __name__ == "__main__":
    main()

"""The files in which PyTorch on a GPU and the engine leave what they computed, for gpu_parity.py to compare.

One folder a run, little-endian throughout:

    index.json           {"model": name, "windows": [{"offset": o, "count": n}, ...]}: window i is tokens o ... o + n - 1 of the files below
    logprob.f32          natural logarithm of each token's probability
    depth.u8             steps of the position that predicts it
    remainder.f32        its remainder
    translations.jsonl   a line a sentence, {"ids", "logprobs", "depths", "encoder_depths"}: ids with </s> when it was said, and a
                         log-probability and a depth for each; the engine's lines may add "finish_reason"

Either half may be missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FILES = {"logprob": ("logprob.f32", "<f4"), "depth": ("depth.u8", "u1"), "remainder": ("remainder.f32", "<f4")}
TRANSLATIONS = "translations.jsonl"


@dataclass(frozen=True)
class Scores:
    """All windows one after another; `counts`: tokens of each."""

    model: str
    counts: list[int]
    logprob: np.ndarray
    depth: np.ndarray
    remainder: np.ndarray


def write_scores(folder: Path, scores: Scores) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    offsets = [sum(scores.counts[:i]) for i in range(len(scores.counts))]
    windows = [{"offset": offset, "count": count} for offset, count in zip(offsets, scores.counts, strict=True)]
    (folder / "index.json").write_text(json.dumps({"model": scores.model, "windows": windows}))
    for name, (file, kind) in FILES.items():
        getattr(scores, name).astype(kind).tofile(folder / file)


def read_scores(folder: Path) -> Scores:
    """Raises ValueError when a file has not as many values as the index says."""
    index = json.loads((folder / "index.json").read_text())
    counts = [window["count"] for window in index["windows"]]
    arrays = {name: np.fromfile(folder / file, kind) for name, (file, kind) in FILES.items()}
    for name, values in arrays.items():
        if len(values) != sum(counts):
            raise ValueError(f"{folder / FILES[name][0]}: {len(values)} values, but index.json counts {sum(counts)} tokens")
    return Scores(index["model"], counts, **arrays)


def write_translations(folder: Path, translations: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRANSLATIONS).write_text("".join(json.dumps(line) + "\n" for line in translations))


def read_translations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TRANSLATIONS).read_text().splitlines()]

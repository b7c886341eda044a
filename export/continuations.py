"""What PyTorch continues prompts with, for the engine's tests: `python export/continuations.py` writes test/families/continuations.json.

Greedy, float32, on the package's own weights, the whole text recomputed for every token. Prompts are pieces of the package's golden
texts, from none at all to most of a context.
"""

from __future__ import annotations

import json

import torch

from export import write_json
from harness import ROOT, model_folder, reference_model

MODEL = "ut-lm-en"
FILE = ROOT / "test" / "families" / "continuations.json"
LENGTHS = (0, 1, 2, 3, 5, 7, 8, 11, 15, 16, 17, 20, 31, 32, 33, 47, 64, 80, 100, 140)
NEW_TOKENS = 24


def prompts() -> list[list[int]]:
    """One of each length, from the texts in turn; a text shorter than that is repeated."""
    texts = [case["ids"] for case in json.loads((model_folder(MODEL) / "golden.json").read_text())]
    return [(texts[i % len(texts)] * LENGTHS[-1])[:length] for i, length in enumerate(LENGTHS)]


def continuations(asked: list[list[int]]) -> list[dict]:
    """Rounded, so that a last bit of another CPU does not change the file."""
    return [
        {
            "prompt": prompt, "ids": said.ids, "logprobs": [round(x, 4) for x in said.logprobs], "depth": said.depth,
            "gaps": [round(x, 5) for x in said.gaps], "margin": round(said.margin, 5),
        }
        for prompt, said in zip(asked, reference_model(model_folder(MODEL)).greedy(asked, NEW_TOKENS), strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of summation depends on the number of threads
    write_json(FILE, continuations(prompts()))

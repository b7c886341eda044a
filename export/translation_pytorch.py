"""Translates token ids with PyTorch in float32, on any device: `python export/translation_pytorch.py CHECKPOINT IDS OUT --device cuda`.

The whole prefix is recomputed for every token, which takes a CPU minutes and a GPU seconds; so this file needs nothing but PyTorch,
safetensors and universal_transformer.py, and runs where the rest of the measurements can't. IDS: JSON, {set: [source ids]}.
OUT: JSON, {set: {ids, encoder_depth, decoder_depth, seconds, device}}.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from universal_transformer import Budget, Ponder, Translation, TranslationModel, load

MAX_NEW_TOKENS = 127  # with <s>, the 128 positions of the checkpoint
BATCH = 64


class LastLogits(TranslationModel):
    """The reference without the logits that greedy decoding does not look at: those of all positions but the newest."""

    @torch.inference_mode()
    def decode(self, prefix: Tensor, memory: Tensor, memory_mask: Tensor, budget: Budget | None = None) -> tuple[Tensor, Ponder]:
        L = prefix.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool).tril()[None]
        out = self.decoder.run(self.embed(prefix), causal, budget or self.budget(), memory, memory_mask)
        return F.log_softmax(out.states[:, -1:] @ self.emb.T, -1), out


def by_length(ids: list[list[int]], size: int) -> Iterator[list[int]]:
    """Indices in batches of sentences of similar length: what padding costs stays small."""
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def greedy(model: TranslationModel, ids: list[list[int]], batch: int, limit: int = MAX_NEW_TOKENS, **budgets: Any) -> list[Translation]:
    results: dict[int, Translation] = {}
    for indices in by_length(ids, batch):
        translations = model.greedy([ids[i] for i in indices], limit, **budgets)
        results.update(zip(indices, translations, strict=True))
    return [results[i] for i in range(len(ids))]


def mean_of(lists: list[list[int]]) -> float:
    return round(sum(map(sum, lists)) / sum(map(len, lists)), 3)


def translate(checkpoint: Path, ids: list[list[int]], device: str = "cpu", batch: int = BATCH) -> dict[str, Any]:
    torch.set_default_device(device)
    config, weights = load(checkpoint)
    model = LastLogits(config, {name: tensor.to(device) for name, tensor in weights.items()})
    began = time.monotonic()
    done = greedy(model, ids, batch)
    return {
        "ids": [t.ids for t in done],
        "encoder_depth": mean_of([t.encoder_depth for t in done]),
        "decoder_depth": mean_of([t.decoder_depth for t in done]),
        "seconds": round(time.monotonic() - began, 1),
        "device": "CPU" if device == "cpu" else torch.cuda.get_device_name(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=BATCH)
    args = parser.parse_args()
    # Full float32: neither products nor attention in TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    out = {}
    for name, ids in json.loads(args.ids.read_text()).items():
        out[name] = translate(args.checkpoint, ids, args.device, args.batch)
        print(name, {key: value for key, value in out[name].items() if key != "ids"}, flush=True)
        args.out.write_text(json.dumps(out))


if __name__ == "__main__":
    main()

"""Trains a tiny language model with adaptive depth in a minute on the CPU: the example of docs/your-model.md.

    python export/train/tiny_universal_transformer.py OUT [--seconds 60]

Its language is sums in words: "nineteen plus twelve is thirty-one." The first number and the second are anybody's guess; what
follows "is" can be worked out, so there are tokens worth thinking about. Writes a checkpoint that export.py takes: config.json,
model.safetensors, tokenizer.json and golden.json.

The model is trained through the reference in export/universal_transformer.py, so what is trained is what is exported.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from universal_transformer import SUPPORTED, Budget, Ponder, Stack

SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_MAX = 30
HELD_OUT = 7  # one pair of numbers in seven is kept for measuring
BATCH, LENGTH = 32, 24
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]


def in_words(n: int) -> str:
    if n < 20:
        return SMALL[n]
    tens = TENS[n // 10 - 2]
    return tens if n % 10 == 0 else f"{tens}-{SMALL[n % 10]}"


def sentence(a: int, b: int) -> str:
    return f"{in_words(a)} plus {in_words(b)} is {in_words(a + b)}."


def pairs(held_out: bool) -> list[tuple[int, int]]:
    """All pairs of numbers up to `NUMBER_MAX`, of which every seventh, mixed by a multiplication, is held out."""
    every = [(a, b) for a in range(NUMBER_MAX + 1) for b in range(NUMBER_MAX + 1)]
    return [(a, b) for a, b in every if ((a * 100 + b) * 2654435761 % 2**32 % HELD_OUT == 0) == held_out]


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """What the server computes exactly: byte-level BPE, digits alone, the specials first. It has all 256 bytes, so it reads any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_config(tokenizer: Tokenizer) -> dict:
    return {
        **SUPPORTED,
        "task": "lm",
        "language": "en",
        "d_model": 64,
        "heads": 4,
        "d_ff": 128,
        "max_steps": 6,
        "threshold": 0.99,
        "vocab": tokenizer.get_vocab_size(),
        "bos": tokenizer.token_to_id("<s>"),
        "context": 64,
        "layer_norm_eps": 1e-5,
    }


class TinyUniversalTransformer(nn.Module):
    """The modules are named so that `state_dict()` has the names of a checkpoint; the reference computes with them."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        d, ff = config["d_model"], config["d_ff"]
        self.emb = nn.Embedding(config["vocab"], d)
        self.block = nn.ModuleDict(
            {
                "ln1": nn.LayerNorm(d),
                "ln2": nn.LayerNorm(d),
                "qkv": nn.Linear(d, 3 * d),
                "o": nn.Linear(d, d),
                "f1": nn.Linear(d, ff),
                "f2": nn.Linear(ff, d),
                "halt": nn.Linear(d, 1),
            }
        )
        self.lnf = nn.LayerNorm(d)
        nn.init.normal_(self.emb.weight, std=d**-0.5)
        nn.init.constant_(self.block["halt"].bias, -0.5)  # about three steps at first

    def forward(self, inputs: Tensor) -> tuple[Tensor, Ponder]:
        """inputs [B, L] from <s> on -> log-probabilities [B, L, V] of the next token, and what it cost."""
        weights = dict(self.named_parameters())
        L = inputs.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool).tril()[None]
        embedded = F.embedding(inputs, weights["emb.weight"]) * math.sqrt(self.config["d_model"])
        ponder = Stack(weights, "", self.config).run(embedded, causal, Budget(self.config["max_steps"]))
        return F.log_softmax(ponder.states @ weights["emb.weight"].T, -1), ponder


def make_batch(rng: random.Random, first: list[list[int]], later: list[list[int]], size: int, length: int) -> Tensor:
    """[size, length] ids of sentences one after another, each row beginning with one."""
    rows = []
    for _ in range(size):
        ids: list[int] = []
        while len(ids) < length:
            ids += rng.choice(later if ids else first)
        rows.append(ids[:length])
    return torch.tensor(rows)


def train(model: TinyUniversalTransformer, tokenizer: Tokenizer, seconds: float, steps_max: int, seed: int) -> int:
    """Returns the number of steps taken: until the time is over, or `steps_max` of them."""
    rng = random.Random(seed)
    first, later = ([tokenizer.encode(space + sentence(a, b)).ids for a, b in pairs(held_out=False)] for space in ("", " "))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.98), weight_decay=0.01)
    bos = torch.full((BATCH, 1), model.config["bos"])
    began = time.monotonic()
    for step in range(steps_max):
        progress = max((time.monotonic() - began) / seconds, step / steps_max)
        if progress >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1, (step + 1) / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)
        ids = make_batch(rng, first, later, BATCH, LENGTH)
        logprobs, ponder = model(torch.cat([bos, ids[:, :-1]], 1))
        nats = -logprobs.gather(-1, ids[..., None]).mean()
        # The price of a step: N has no gradient, the remainder has (Graves 2016, section 2.2).
        loss = nats + 0.01 * (ponder.depth + ponder.remainder).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            depth = ponder.depth.float().mean()
            print(f"{time.monotonic() - began:5.0f} s  step {step:5d}  {nats:.3f} nats  mean depth {depth:.2f}", flush=True)
    return steps_max


@torch.inference_mode()
def measure(model: TinyUniversalTransformer, tokenizer: Tokenizer) -> dict:
    """On the pairs held out: bits per byte, and how often the most probable tokens are the sum."""
    unknown = pairs(held_out=True)
    encoded = [tokenizer.encode(sentence(a, b)).ids for a, b in unknown]
    asked = [len(tokenizer.encode(sentence(a, b).split(" is ")[0] + " is").ids) for a, b in unknown]
    L = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (L - len(row)) for row in encoded])
    real = torch.arange(L) < torch.tensor([[len(row)] for row in encoded])
    answer = real & (torch.arange(L) >= torch.tensor(asked)[:, None])
    logprobs, ponder = model(torch.cat([torch.full((len(ids), 1), model.config["bos"]), ids[:, :-1]], 1))
    nats = -logprobs.gather(-1, ids[..., None])[..., 0]
    sizes = sum(len(sentence(a, b)) for a, b in unknown)
    right = ((logprobs.argmax(-1) == ids) | ~answer).all(1)
    depth = ponder.depth.float()
    return {
        "set": f"{len(unknown)} sums that training did not see",
        "bits_per_byte": round(float(nats[real].sum()) / math.log(2) / sizes, 4),
        "sums_right": round(float(right.float().mean()), 4),
        "mean_depth": round(float(depth[real].mean()), 3),
        "mean_depth_of_sums": round(float(depth[answer].mean()), 3),
    }


def write_checkpoint(out: Path, model: TinyUniversalTransformer, tokenizer: Tokenizer, trained: dict, measured: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    config = {**model.config, "trained": trained, "measured": measured}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, out / "model.safetensors")
    tokenizer.save(str(out / "tokenizer.json"))
    texts = [sentence(a, b) for a, b in pairs(held_out=True)[::12]]
    golden = [{"text": text, "ids": tokenizer.encode(text).ids, "bytes": len(text.encode())} for text in texts]
    (out / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write, its name is free")
    parser.add_argument("--seconds", type=float, default=60, help="time to train")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps at most, for a run whose length does not depend on the machine")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # a model this small gains nothing by more, and its figures would depend on their number
    tokenizer = make_tokenizer([f"{sentence(a, b)} {sentence(b, a)}" for a, b in pairs(held_out=False)])
    model = TinyUniversalTransformer(make_config(tokenizer))
    steps = train(model, tokenizer, args.seconds, args.steps, args.seed)
    measured = measure(model, tokenizer)
    trained = {
        "data": "sums of numbers up to thirty in words, generated by this repository's tiny_universal_transformer.py",
        "licence": "Apache-2.0",
        "steps": steps,
        "recipe": "AdamW, 5e-3 with a cosine; 0.01 nats for a step",
    }
    write_checkpoint(args.out, model, tokenizer, trained, measured)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()

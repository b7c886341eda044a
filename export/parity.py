"""Shows that the server computes what PyTorch computes, and the same in any batch: `python export/parity.py`.

    against PyTorch   the server in float32 against universal_transformer.py on the package's own (dequantised) weights,
                      with the model's budget and with budgets of every kind
    against batch 1   the server against itself: each text alone, then all texts at once with mixed lengths and budgets

Texts are seeded slices of wikipedia.test.txt, of 1 to context - 1 tokens. Prints a table and every excused token; exits with 1
when a row fails.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from export import write_json
from harness import Server, commit, machine, model_folder, read_text, reference_model
from universal_transformer import LanguageModel

SET = "wikipedia.test.txt"

# Log-probabilities in nats, remainders as they are. Depth is equal, always.
TOLERANCE = {"pytorch": 1e-4, "batch float32": 1e-5, "batch int8": 0.0}

# Two summation orders differ by about 1e-6 in a halting sum: nearer to the threshold than this, either depth is right.
TIE = 1e-5

PYTORCH_BATCH = 8
TOP_LOGPROBS = 5
BUDGET_TEXTS = 6
EXCUSED_SHOWN = 20


@dataclass(frozen=True)
class Scored:
    """One text: per token the log-probability, the depth and the remainder; `margin` only from PyTorch."""

    logprobs: list[float]
    depths: list[int]
    remainders: list[float]
    margins: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One line of the table: `compare` adds a text at a time."""

    name: str
    tolerance: float
    texts: int = 0
    tokens: int = 0
    depth_differs: int = 0
    logprob_max: float = 0.0
    logprob_sum: float = 0.0
    remainder_max: float = 0.0
    excused: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.tokens > 0 and self.depth_differs == 0 and max(self.logprob_max, self.remainder_max) <= self.tolerance

    def compare(self, label: str, want: Scored, have: Scored) -> None:
        """A tie is excused its depth. Once one went the other way, the positions after it attend to other keys: they are
        excused altogether, and listed."""
        self.texts += 1
        flipped = None
        for i, depth in enumerate(want.depths):
            tie = bool(want.margins) and want.margins[i] < TIE
            if tie:
                self.excused.append(
                    f"{label}, token {i}: margin {want.margins[i]:.1e}, depth {depth} and {have.depths[i]}"
                    + (f", {len(want.depths) - i - 1} tokens follow" if depth != have.depths[i] else "")
                )
                flipped = i if flipped is None and depth != have.depths[i] else flipped
            if flipped is not None:
                continue
            self.tokens += 1
            self.depth_differs += depth != have.depths[i]
            difference = abs(want.logprobs[i] - have.logprobs[i])
            self.logprob_sum += difference
            self.logprob_max = max(self.logprob_max, difference)
            self.remainder_max = max(self.remainder_max, abs(want.remainders[i] - have.remainders[i]))

    def line(self) -> str:
        cells = [
            self.name,
            str(self.texts),
            str(self.tokens),
            str(self.depth_differs),
            str(len(self.excused)),
            f"{self.logprob_max:.1e}",
            f"{self.logprob_sum / max(1, self.tokens):.1e}",
            f"{self.remainder_max:.1e}",
            f"{self.tolerance:.0e}" if self.tolerance > 0 else "0 (bit-identical)",
            "ok" if self.passed else "FAILED",
        ]
        return f"| {' | '.join(cells)} |"


HEAD = """\
| check | texts | tokens | depth differs | excused | logprob max | mean | remainder max | tolerance | |
|---|---|---|---|---|---|---|---|---|---|"""


def slices(ids: list[int], count: int, longest: int, seed: int) -> list[list[int]]:
    """`count` slices whose lengths go from 1 to `longest` evenly, in random order."""
    draw = random.Random(seed)
    lengths = [1 + round(i * (longest - 1) / max(1, count - 1)) for i in range(count)]
    draw.shuffle(lengths)
    starts = [draw.randrange(len(ids) - length) for length in lengths]
    return [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def budgets(max_steps: int) -> list[dict]:
    """One of every kind that a request may ask for, as fields of the request."""
    return [
        *({"max_steps": m} for m in range(1, max_steps + 1)),
        *({"min_steps": m} for m in range(2, max_steps + 1)),
        *({"threshold": x} for x in (0.001, 0.3, 0.5, 0.9, 0.999, 1.0)),
        {"max_steps": 5, "min_steps": 5},
        {"max_steps": 4, "min_steps": 3, "threshold": 0.7},
        {"max_steps": 6, "min_steps": 2, "threshold": 0.95},
    ]


def by_pytorch(model: LanguageModel, texts: list[list[int]], budget: dict) -> list[Scored]:
    """Texts of like length share a batch: what PyTorch pads, it computes."""
    results: dict[int, Scored] = {}
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(order), PYTORCH_BATCH):
        batch = order[at : at + PYTORCH_BATCH]
        scored = model.score([texts[i] for i in batch], model.budget(**budget))
        for i, (logprobs, ponder) in zip(batch, scored, strict=True):
            chosen = logprobs.gather(1, torch.tensor(texts[i])[:, None]).squeeze(1)
            numbers = (chosen, ponder.depth, ponder.remainder, ponder.margin)
            results[i] = Scored(*(values.tolist() for values in numbers))
    return [results[i] for i in range(len(texts))]


def by_server(server: Server, ids: list[int], fields: dict) -> Scored:
    [result] = server.score(ids, **fields)["results"]
    tokens = result["tokens"]
    if [token["id"] for token in tokens] != ids:
        raise RuntimeError("the reply holds other tokens than the request")
    return Scored(*([token[key] for token in tokens] for key in ("logprob", "depth", "remainder")))


def all_at_once(server: Server, texts: list[list[int]], fields: list[dict]) -> list[Scored]:
    with ThreadPoolExecutor(len(texts)) as pool:
        return list(pool.map(lambda ids, asked: by_server(server, ids, asked), texts, fields))


def check_pytorch(server: Server, model: LanguageModel, texts: list[list[int]], say: Callable[[Row], None]) -> None:
    row = Row("float32 against PyTorch", TOLERANCE["pytorch"])
    have = all_at_once(server, texts, [{}] * len(texts))
    for i, want in enumerate(by_pytorch(model, texts, {})):
        row.compare(f"text {i} of {len(texts[i])}", want, have[i])
    say(row)
    by_length = sorted(texts, key=len)
    few = by_length[:: -max(1, len(texts) // BUDGET_TEXTS)][:BUDGET_TEXTS]
    row = Row("the same, with budgets", TOLERANCE["pytorch"])
    for budget in budgets(model.config["max_steps"]):
        have = all_at_once(server, few, [budget] * len(few))
        for i, want in enumerate(by_pytorch(model, few, budget)):
            row.compare(f"{budget}, text of {len(few[i])}", want, have[i])
    say(row)


def check_batch(server: Server, precision: str, max_steps: int, texts: list[list[int]], seed: int, say: Callable[[Row], None]) -> None:
    draw = random.Random(seed)
    fields = [{**draw.choice([{}, *budgets(max_steps)]), "top_logprobs": draw.choice([0, 0, TOP_LOGPROBS])} for _ in texts]
    row = Row(f"{precision} all at once against one at a time", TOLERANCE[f"batch {precision}"])
    alone = [by_server(server, ids, asked) for ids, asked in zip(texts, fields, strict=True)]
    together = all_at_once(server, texts, fields)
    for i, (want, have) in enumerate(zip(alone, together, strict=True)):
        row.compare(f"text {i} of {len(texts[i])}", want, have)
    say(row)


def run(name: str, count: int, seed: int, threads: int, say: Callable[[Row], None]) -> None:
    """Every check on the package `name`; `say` gets each row as it is done."""
    folder = model_folder(name)
    model = reference_model(folder)
    max_steps, context = (model.config[key] for key in ("max_steps", "context"))
    texts = slices(read_text(SET, folder / "tokenizer.json").ids, count, context - 1, seed)
    # Every text is sent at once, so as many requests must fit.
    options = ("--threads", str(threads), "--requests-max", str(count + 16), "--queue-wait-ms-max", "600000")
    with Server("float32", name, *options) as server:
        check_pytorch(server, model, texts, say)
        check_batch(server, "float32", max_steps, texts, seed, say)
    with Server("int8", name, *options) as server:
        check_batch(server, "int8", max_steps, texts, seed, say)


def print_excused(row: Row) -> None:
    """All of a few; of many, those that went the other way. A threshold of 1 is all ties: halting sums creep up to it."""
    shown = row.excused if len(row.excused) <= EXCUSED_SHOWN else [token for token in row.excused if "follow" in token]
    for token in shown:
        print(f"excused ({row.name}): {token}")
    if len(shown) < len(row.excused):
        print(f"excused ({row.name}): {len(row.excused) - len(shown)} more with equal depth (--report lists them)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ut-lm-en", help="name of the package")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20180703)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and of the server")
    parser.add_argument("--report", type=Path, help="JSON to write as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.texts} texts of {SET}, seed {args.seed}\n\n{HEAD}", flush=True)
    rows: list[Row] = []

    def say(row: Row) -> None:
        rows.append(row)
        print(row.line(), flush=True)

    run(args.model, args.texts, args.seed, args.threads, say)
    for row in rows:
        print_excused(row)
    if args.report is not None:
        about = {"model": args.model, "commit": commit(), "machine": machine(), "set": SET, "seed": args.seed, "threads": args.threads}
        args.report.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.report, {**about, "rows": [{**asdict(row), "passed": row.passed} for row in rows]})
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

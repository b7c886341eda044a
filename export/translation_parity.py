"""Shows that the server translates as PyTorch does, and the same in any batch: `python export/translation_parity.py`.

    greedy            the server in float32, which caches by depth, against TranslationModel.greedy on the package's own (dequantised)
                      weights, which recomputes the whole prefix for every token
    with budgets      the same for a few sentences with max_steps, min_steps and threshold of encoder and decoder apart
    against batch 1   the server against itself: each sentence alone, then all at once with mixed beams and budgets, while texts
                      are scored on the same engine

Tokens, encoder and decoder depths are equal. Two ways of summing differ by about 1e-6, so where a halting sum comes within TIE of its
threshold, or the second best token within TIE of the best, either is right: such ties are listed, and a sentence that goes another
way at one is compared up to there. Prints a table and every tie; exits with 1 when a row fails.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from export import write_json
from harness import ROOT, commit, machine, model_folder, read_text
from translation_harness import MODEL, TEST_SETS, Engine, read_pairs, reference_translation
from translation_pytorch import MAX_NEW_TOKENS, by_length, greedy
from universal_transformer import Budget, Translation, TranslationModel

TOLERANCE = 1e-4  # nats, of a token's log-probability
TIE = 1e-5

PYTORCH_BATCH = 32
BUDGET_SENTENCES = 6
BEAM_SENTENCES = 100  # of the comparisons with one beam after another alone, which take longest
BUDGET_TOKENS = 24  # a model cut short may never say </s>
SCORED_MODEL = "ut-lm-en"
SCORED_TEXTS = 24
SCORED_TOKENS = 100
# Of encoder and decoder each; a request draws one for either.
BUDGETS: list[dict] = [
    {},
    {"max_steps": 1},
    {"max_steps": 3},
    {"min_steps": 4},
    {"min_steps": 6},
    {"threshold": 0.5},
    {"threshold": 0.9},
    {"max_steps": 4, "min_steps": 3, "threshold": 0.8},
]
BEAMS = (1, 1, 4, 4, 2, 8)


@dataclass(frozen=True)
class Wanted:
    """PyTorch's translation, and per position how near its halting sums came to the threshold."""

    translation: Translation
    encoder_margin: list[float]
    decoder_margin: list[float]


@dataclass
class Row:
    """One line of the table: `compare` adds a sentence at a time."""

    name: str
    sentences: int = 0
    tokens: int = 0
    differs: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)
    logprob_max: float = 0.0
    logprob_sum: float = 0.0

    @property
    def passed(self) -> bool:
        return self.tokens > 0 and not self.differs and self.logprob_max <= TOLERANCE

    def compare(self, label: str, want: Wanted, have: dict, eos: int) -> None:
        self.sentences += 1
        t = want.translation
        near = {"source position": want.encoder_margin, "margin of token": want.decoder_margin, "gap of token": t.gaps}
        self.ties += [f"{label}, {what} {i}: {x:.1e}" for what, values in near.items() for i, x in enumerate(values) if x < TIE]
        for i, (a, b, margin) in enumerate(zip(t.encoder_depth, have["encoder_depths"], want.encoder_margin, strict=True)):
            if a != b:
                return self._went_apart(f"{label}, source position {i}: depth {a} and {b}, margin {margin:.1e}", margin)
        [best] = have["hypotheses"]
        ids = best["ids"] + [eos] * (best["finish_reason"] == "stop")
        for i, token in enumerate(ids[: len(t.ids)]):
            depth, margin, gap = best["depths"][i], want.decoder_margin[i], t.gaps[i]
            if depth != t.decoder_depth[i]:
                return self._went_apart(f"{label}, token {i}: depth {t.decoder_depth[i]} and {depth}, margin {margin:.1e}", margin)
            if token != t.ids[i]:
                return self._went_apart(f"{label}, token {i}: {t.ids[i]} and {token}, gap {gap:.1e}", gap)
            self.tokens += 1
            difference = abs(best["logprobs"][i] - t.logprobs[i])
            self.logprob_sum += difference
            self.logprob_max = max(self.logprob_max, difference)
        # The engine's guard ends what only repeats itself; PyTorch goes on to the limit.
        if len(ids) != len(t.ids) and best["finish_reason"] != "repetition":
            self.differs.append(f"{label}: {len(t.ids)} tokens and {len(ids)}")

    def compare_exactly(self, label: str, alone: dict, together: dict) -> None:
        """Every bit of an answer, whatever it is of; log-probabilities travel as float32 written in full."""
        self.sentences += 1
        self.tokens += sum(len(h["depths"]) for h in alone.get("hypotheses", [alone]))
        if alone != together:
            self.differs.append(f"{label}: {first_difference(alone, together)}")

    def _went_apart(self, text: str, tie: float) -> None:
        (self.excused if tie < TIE else self.differs).append(text)

    def line(self) -> str:
        cells = [self.name, self.sentences, self.tokens, len(self.differs), len(self.ties), len(self.excused)]
        cells += [f"{self.logprob_max:.1e}", f"{self.logprob_sum / max(1, self.tokens):.1e}", "ok" if self.passed else "FAILED"]
        return f"| {' | '.join(map(str, cells))} |"


HEAD = """\
| check | sentences | tokens | differ | ties within 1e-5 | of which went the other way | logprob max | mean | |
|---|---|---|---|---|---|---|---|---|"""


def first_difference(a: object, b: object, path: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next((first_difference(a[key], b[key], f"{path}.{key}") for key in a if a[key] != b[key]), "")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((first_difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), "")
    return f"{path.lstrip('.')} is {a!r:.60} alone and {b!r:.60} in a batch"


def sample(count: int, seed: int) -> list[list[int]]:
    """As many sentences of each test set, in the order drawn."""
    draw = random.Random(seed)
    chosen = [draw.sample(read_pairs(name).ids, count // len(TEST_SETS)) for name in TEST_SETS]
    return [ids for of_each in zip(*chosen, strict=True) for ids in of_each]


def by_pytorch(model: TranslationModel, ids: list[list[int]], limit: int = MAX_NEW_TOKENS, **budgets: Budget) -> list[Wanted]:
    """Greedy translations, and the margins of every position: decoded once more, since greedy keeps only the least of all."""
    translations = greedy(model, ids, PYTORCH_BATCH, limit, **budgets)
    wanted: dict[int, Wanted] = {}
    for indices in by_length(ids, PYTORCH_BATCH):
        encoded, mask = model.encode([ids[i] for i in indices], budgets.get("encoder_budget"))
        prefix = torch.zeros(len(indices), max(len(translations[i].ids) for i in indices), dtype=torch.int64)
        for row, i in enumerate(indices):
            prefix[row, : len(translations[i].ids)] = torch.tensor([model.config["bos"], *translations[i].ids[:-1]])
        _, decoded = model.decode(prefix, encoded.states, mask, budgets.get("budget"))
        for row, i in enumerate(indices):
            encoder, decoder = encoded.margin[row, : len(ids[i])], decoded.margin[row, : len(translations[i].ids)]
            wanted[i] = Wanted(translations[i], encoder.tolist(), decoder.tolist())
    return [wanted[i] for i in range(len(ids))]


def check_greedy(engine: Engine, model: TranslationModel, ids: list[list[int]], say: Callable[[Row], None]) -> None:
    row = Row("float32 against PyTorch, greedy")
    have = engine.translate(ids)
    for i, want in enumerate(by_pytorch(model, ids)):
        row.compare(f"sentence {i} of {len(ids[i])}", want, have[i], model.config["eos"])
    say(row)


def check_budgets(engine: Engine, model: TranslationModel, ids: list[list[int]], say: Callable[[Row], None]) -> None:
    """Each budget of the encoder with the default of the decoder, the other way round, and some pairs of two."""
    row = Row("the same, with budgets")
    pairs = [(b, {}) for b in BUDGETS[1:]] + [({}, b) for b in BUDGETS[1:]] + list(zip(BUDGETS[1:], BUDGETS[:0:-1], strict=True))
    asked = [(source, encoder, decoder) for encoder, decoder in pairs for source in ids]
    requests = [{"ids": s, "encoder": e, "decoder": d, "max_new_tokens": BUDGET_TOKENS} for s, e, d in asked]
    have = iter(engine.ask(requests)["results"])
    for encoder, decoder in pairs:
        budgets = {"budget": model.budget(**decoder), "encoder_budget": model.budget(**encoder)}
        for i, want in enumerate(by_pytorch(model, ids, BUDGET_TOKENS, **budgets)):
            row.compare(f"encoder {encoder}, decoder {decoder}, sentence of {len(ids[i])}", want, next(have), model.config["eos"])
    say(row)


def mixed(ids: list[list[int]], seed: int) -> list[dict]:
    """A request a sentence, with beams and budgets drawn, and texts to score among them."""
    draw = random.Random(seed)
    requests = []
    for source in ids:
        limit = draw.choice([MAX_NEW_TOKENS, MAX_NEW_TOKENS, 12])
        request = {"ids": source, "beam": draw.choice(BEAMS), "length_penalty": draw.choice([0.6, 1.0]), "max_new_tokens": limit}
        requests.append(request | {"encoder": draw.choice([{}, {}, *BUDGETS]), "decoder": draw.choice([{}, {}, *BUDGETS])})
    text = read_text("wikipedia.test.txt", model_folder(SCORED_MODEL) / "tokenizer.json", bytes_max=60_000).ids
    for i in range(SCORED_TEXTS):
        start = draw.randrange(len(text) - SCORED_TOKENS)
        requests.insert(i * 4, {"ids": text[start : start + draw.randint(1, SCORED_TOKENS)], "score": True})
    return requests


def check_batch(engine: Engine, ids: list[list[int]], seed: int, say: Callable[[Row], None]) -> None:
    some = ids[:BEAM_SENTENCES]
    kinds = {
        "greedy": [{"ids": source, "max_new_tokens": MAX_NEW_TOKENS} for source in ids],
        "beam 4": [{"ids": source, "max_new_tokens": MAX_NEW_TOKENS, "beam": 4} for source in some],
        "mixed beams and budgets, beside scoring": mixed(some, seed),
    }
    for name, requests in kinds.items():
        row = Row(f"int8 alone against all at once, {name}")
        alone = engine.ask(requests, clients=1)["results"]
        together = engine.ask(requests)["results"]
        for i, (a, b) in enumerate(zip(alone, together, strict=True)):
            row.compare_exactly(f"request {i} of {len(requests[i]['ids'])} tokens", a, b)
        say(row)


def run(count: int, seed: int, threads: int, say: Callable[[Row], None]) -> None:
    """Every check; `say` gets each row as it is done."""
    ids = sample(count, seed)
    model = reference_translation(model_folder(MODEL))
    lengths = sorted(ids, key=len)
    with Engine("float32", threads) as engine:
        check_greedy(engine, model, ids, say)
        check_budgets(engine, model, lengths[:: max(1, len(ids) // BUDGET_SENTENCES)][:BUDGET_SENTENCES], say)
    with Engine("int8", threads, models=(MODEL, SCORED_MODEL)) as engine:
        check_batch(engine, ids, seed, say)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20180703)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and of the server")
    parser.add_argument("--report", type=Path, default=ROOT / "export" / "reports" / "translation-parity.json", help="JSON to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.sentences} sentences of {', '.join(TEST_SETS)}, seed {args.seed}\n\n{HEAD}", flush=True)
    rows: list[Row] = []

    def say(row: Row) -> None:
        rows.append(row)
        print(row.line(), flush=True)

    run(args.sentences, args.seed, args.threads, say)
    for row in rows:
        said = {"DIFFERS": row.differs[:20], "tie": row.ties, "went the other way": row.excused}
        for text in [f"{what}: {text}" for what, texts in said.items() for text in texts]:
            print(f"{row.name}: {text}")
    about = {"model": MODEL, "commit": commit(), "machine": machine(), "sets": list(TEST_SETS), "seed": args.seed, "threads": args.threads}
    args.report.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.report, {**about, "tie": TIE, "tolerance": TOLERANCE, "rows": [{**asdict(r), "passed": r.passed} for r in rows]})
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

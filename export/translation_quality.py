"""Measures what translations are worth: `python export/translation_quality.py` prints a table and writes a JSON report.

BLEU and chrF (sacrebleu, one reference a sentence, as the checkpoint's own figures) of three ways to translate the first sentences
of each test set: PyTorch in float32 on the checkpoint's own weights, greedy; the server in int8, greedy; the server in int8, beam 4.

Exits with 1 when int8 loses more than LIMITS to PyTorch, or the beam to greedy. `--tune` chooses the length penalty instead, on the
development sets: no hypothesis depends on it, only which of them is best, so one run serves every value.

PyTorch recomputes the whole prefix for each token and takes many minutes on a CPU; its translations are kept in .cache/. They can be
made on a GPU: `--write-ids IDS` here, translation_pytorch.py there, `--pytorch OUT` here again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from sacrebleu.metrics import BLEU, CHRF

from export import write_json
from harness import ROOT, SHARED, checkpoint_folder, commit, machine
from translation_harness import DEV_SETS, MODEL, TEST_SETS, Engine, Pairs, read_lines, read_pairs, tokenizer
from translation_pytorch import mean_of, translate

LIMITS = {"int8_below_pytorch": 0.3, "beam_below_greedy": 0.0}  # BLEU

CLIENTS = 64
BEAM = 4
WAYS = {"pytorch": "PyTorch float32 greedy", "int8_greedy": "server int8 greedy", "int8_beam": f"server int8 beam {BEAM}"}
PENALTIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)


def worth(hypotheses: list[str], references: list[list[str | None]]) -> dict:
    """References are one list a stream; None where a sentence has fewer of them."""
    bleu, chrf = BLEU(), CHRF()
    figures = {"bleu": round(bleu.corpus_score(hypotheses, references).score, 2)}
    figures["chrf"] = round(chrf.corpus_score(hypotheses, references).score, 2)
    return figures | {"signature": str(bleu.get_signature()), "chrf_signature": str(chrf.get_signature())}


def all_references(name: str, pairs: Pairs) -> list[list[str | None]] | None:
    """Tatoeba's sentences have several translations: source, then one a column. None for sets of one reference."""
    path = SHARED / "eval" / "ende" / f"{name}.allrefs.tsv"
    if not path.exists():
        return None
    rows = [line.split("\t") for line in read_lines(path)[: len(pairs.sources)]]
    if [row[0] for row in rows] != pairs.sources:
        raise ValueError(f"{path.name} has other sources than {name}.en")
    columns = max(map(len, rows))
    return [[row[c] if c < len(row) else None for row in rows] for c in range(1, columns)]


def sets_key(ids: list[list[int]]) -> str:
    """What PyTorch's translations of a set depend on."""
    weights = (checkpoint_folder(MODEL) / "model.safetensors").read_bytes()
    return hashlib.sha256(weights + json.dumps(ids).encode()).hexdigest()[:16]


def cached(pairs: Pairs, cache: Path) -> Path:
    return cache / f"{pairs.name}-{sets_key(pairs.ids)}.json"


def by_pytorch(pairs: Pairs, cache: Path) -> dict:
    """What translation_pytorch.translate returns, from the cache where it is there."""
    path = cached(pairs, cache)
    if not path.exists():
        store(path, translate(checkpoint_folder(MODEL), pairs.ids))
    return json.loads(path.read_text())


def store(path: Path, done: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, done)


def by_engine(engine: Engine, pairs: Pairs, **fields) -> dict:
    """{ids, encoder_depth, decoder_depth, finish}: `decoder_depth` of the rows computed, whichever hypothesis they were for."""
    results = engine.translate(pairs.ids, CLIENTS, **fields)
    best = [result["hypotheses"][0] for result in results]
    finish: dict[str, int] = {}
    for hypothesis in best:
        finish[hypothesis["finish_reason"]] = finish.get(hypothesis["finish_reason"], 0) + 1
    steps, positions = (sum(result[key] for result in results) for key in ("decoder_steps", "decoder_positions"))
    depths = {"encoder_depth": mean_of([r["encoder_depths"] for r in results]), "decoder_depth": round(steps / positions, 3)}
    return {"ids": [hypothesis["ids"] for hypothesis in best], **depths, "finish": finish}


def figures(done: dict, pairs: Pairs) -> dict:
    """What the report keeps of translations."""
    texts = tokenizer().decode_batch(done["ids"], skip_special_tokens=True)
    out = worth(texts, [pairs.references]) | {key: value for key, value in done.items() if key != "ids"}
    several = all_references(pairs.name, pairs)
    return out if several is None else out | {"all_references": worth(texts, several)}


def measure(pairs: Pairs, engine: Engine, cache: Path, penalty: float) -> dict:
    return {
        "sentences": len(pairs.ids),
        "sources_cut": pairs.cut,
        "int8_greedy": figures(by_engine(engine, pairs), pairs),
        "int8_beam": figures(by_engine(engine, pairs, beam=BEAM, length_penalty=penalty), pairs),
        "pytorch": figures(by_pytorch(pairs, cache), pairs),
    }


def missed(sets: dict) -> list[str]:
    out = []
    for name, entry in sets.items():
        pytorch, int8, beam = (entry[key]["bleu"] for key in ("pytorch", "int8_greedy", "int8_beam"))
        if pytorch - int8 > LIMITS["int8_below_pytorch"]:
            out.append(f"{name}: int8 greedy {int8} against PyTorch {pytorch}")
        if int8 - beam > LIMITS["beam_below_greedy"]:
            out.append(f"{name}: beam {beam} against greedy {int8}")
    return out


def table(sets: dict) -> str:
    lines = [
        "| set | sentences | decoding | BLEU | chrF | depth: encoder | decoder | BLEU against PyTorch | BLEU, all references |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in sets.items():
        for key, label in WAYS.items():
            f = entry[key]
            cells = [name, str(entry["sentences"]), label, f"{f['bleu']:.2f}", f"{f['chrf']:.2f}"]
            cells += [f"{f['encoder_depth']:.2f}", f"{f['decoder_depth']:.2f}"]
            cells += ["" if key == "pytorch" else f"{f['bleu'] - entry['pytorch']['bleu']:+.2f}"]
            cells += [f"{f['all_references']['bleu']:.2f}" if "all_references" in f else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def best_at(hypotheses: list[dict], penalty: float) -> list[int]:
    """Of the hypotheses the engine returned, the best at another length penalty; the first of equals, as the engine has it."""
    return max(hypotheses, key=lambda h: sum(h["logprobs"]) / len(h["logprobs"]) ** penalty)["ids"]


def tune(pairs: Pairs, engine: Engine) -> dict:
    """{sentences, greedy, beam: {penalty: figures}}."""
    results = engine.translate(pairs.ids, CLIENTS, beam=BEAM)
    beam = {str(p): figures({"ids": [best_at(r["hypotheses"], p) for r in results]}, pairs) for p in PENALTIES}
    return {"sentences": len(pairs.ids), "greedy": figures(by_engine(engine, pairs), pairs), "beam": beam}


def tune_table(sets: dict) -> str:
    head = ["set", "greedy", *(f"beam {BEAM}, penalty {p}" for p in PENALTIES)]
    rows = [[name, entry["greedy"]["bleu"], *(entry["beam"][str(p)]["bleu"] for p in PENALTIES)] for name, entry in sets.items()]
    mean = ["mean", *(sum(row[column] for row in rows) / len(rows) for column in range(1, len(head)))]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [f"| {row[0]} | {' | '.join(f'{value:.2f}' for value in row[1:])} |" for row in [*rows, mean]])


def save_to(report: Path, head: dict) -> Callable[[dict], None]:
    def save(sets: dict) -> None:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_json(report, {**head, "sets": sets})

    return save


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", metavar="SET", help=f"of {', '.join(TEST_SETS)}, or with --tune of {', '.join(DEV_SETS)}")
    parser.add_argument("--sentences", type=int, default=1000, help="the first so many of each set; 0: all")
    parser.add_argument("--length-penalty", type=float, default=1.0, help="of the beam")
    parser.add_argument("--tune", action="store_true", help="try length penalties on the development sets")
    parser.add_argument("--write-ids", type=Path, help="only write the source ids, for translation_pytorch.py")
    parser.add_argument("--pytorch", type=Path, help="what translation_pytorch.py wrote for these sets and sentences")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and of the server")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", help="where PyTorch's translations are kept")
    parser.add_argument("--report", type=Path, help="JSON to write (default: export/reports/translation-quality.json or -tune.json)")
    args = parser.parse_args()
    known = DEV_SETS if args.tune else TEST_SETS
    if not set(args.sets or known) <= set(known):
        parser.error(f"--sets takes {', '.join(known)}")
    torch.set_num_threads(args.threads)
    chosen = [read_pairs(name, args.sentences or None) for name in args.sets or known]
    if args.write_ids is not None:
        args.write_ids.write_text(json.dumps({pairs.name: pairs.ids for pairs in chosen}))
        return 0
    if args.pytorch is not None:
        done = json.loads(args.pytorch.read_text())
        for pairs in chosen:
            if len(done[pairs.name]["ids"]) != len(pairs.ids):
                parser.error(f"{args.pytorch} has another number of sentences of {pairs.name}")
            store(cached(pairs, args.cache), done[pairs.name])
    report = args.report or ROOT / "export" / "reports" / f"translation-{'tune' if args.tune else 'quality'}.json"
    head = {"model": MODEL, "commit": commit(), "machine": machine(), "threads": args.threads, "beam": BEAM}
    save = save_to(report, head | ({} if args.tune else {"length_penalty": args.length_penalty, "limits": LIMITS}))
    sets: dict = {}
    with Engine("int8", args.threads) as engine:
        for pairs in chosen:
            sets[pairs.name] = tune(pairs, engine) if args.tune else measure(pairs, engine, args.cache, args.length_penalty)
            save(sets)
    print(tune_table(sets) if args.tune else table(sets))
    if args.tune:
        return 0
    first = next(iter(sets.values()))["pytorch"]
    print(f"\n{first['signature']}\n{first['chrf_signature']}")
    failures = missed(sets)
    print("\n".join(["limits MISSED:", *failures]) if failures else "limits met")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares two runs that gpu_results.py describes: `python export/gpu_parity.py REFERENCE ENGINE OUT.json`.

Scores: how far log-probabilities and depths lie apart. Translations: how many are equal, and the BLEU of both against the references
that gpu_inputs.py wrote beside the sources. A half that ENGINE lacks is left out, and where it has fewer windows or sentences, they are the
first ones of REFERENCE. Prints the figures, writes OUT.json and exits with 1 when a limit is missed. `--limits batch` is for two runs of
the engine, in any batch and one at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

from export import write_json
from gpu_results import TRANSLATIONS, Scores, read_scores, read_translations
from harness import ROOT
from translation_harness import MODEL, model_folder, tokenizer, translation_config

# At most; what is equal, at least.
LIMITS = {
    "pytorch": {"logprob_max": 2e-2, "logprob_mean": 2e-3, "depths_equal": 0.995, "mean_depth_apart": 5e-3, "bleu_apart": 0.2},
    "batch": {"logprob_max": 2e-3, "depths_equal": 0.999},
}
AT_LEAST = "depths_equal"
WORST = 10  # tokens of the largest differences that are listed


def missed(figures: dict[str, Any], limits: dict[str, float]) -> list[str]:
    out = []
    for name, limit in limits.items():
        value = figures.get(name)
        # Written so that NaN misses.
        if value is not None and not (value >= limit if name == AT_LEAST else value <= limit):
            out.append(f"{name} is {value:.4g}, the limit {limit:g}")
    return out


def compare_scores(want: Scores, have: Scores) -> dict[str, Any]:
    """Raises ValueError when the windows are not the same."""
    if not have.counts or have.counts != want.counts[: len(have.counts)]:
        raise ValueError("the two runs did not score the same windows: start both from one file")
    tokens = sum(have.counts)
    signed = have.logprob.astype(np.float64) - want.logprob[:tokens]
    apart, depths = np.abs(signed), (want.depth[:tokens], have.depth)
    same = depths[0] == depths[1]
    means = [float(depth.mean()) for depth in depths]
    window = np.repeat(np.arange(len(have.counts)), have.counts)
    first = np.repeat(np.cumsum([0, *have.counts[:-1]]), have.counts)
    # Positions of its window up to each token that halted at another step: it sees them.
    turned = np.cumsum(~same)
    turned_before = turned - turned[first] + ~same[first]
    worst = [
        {
            "window": int(window[i]), "token": int(i - first[i]), "apart": float(apart[i]), "depths": [int(depth[i]) for depth in depths],
            "depths_apart_before": int(turned_before[i]),
        }
        for i in np.argsort(-apart, kind="stable")[:WORST]
    ]
    return {
        "windows": len(have.counts),
        "tokens": tokens,
        "logprob_max": float(apart.max()),
        "logprob_mean": float(apart.mean()),
        "logprob_quantiles": {str(q): float(np.quantile(apart, q)) for q in (0.5, 0.99, 0.999, 0.9999)},
        "logprob_mean_signed": float(signed.mean()),
        # Without those that went deeper or less deep themselves: what arithmetic and their neighbours' depths do.
        "logprob_max_at_equal_depth": float(apart[same].max(initial=0)),
        # Of those that see no position which did: arithmetic alone.
        "logprob_max_where_none_differs": float(apart[turned_before == 0].max(initial=0)),
        "depths_equal": float(same.mean()),
        "mean_depths": means,
        "mean_depth_apart": abs(means[1] - means[0]) / means[0],
        "remainder_mean": float(np.abs(want.remainder[:tokens] - have.remainder).mean()),
        "worst": worst,
    }


def compare_translations(want: list[dict], have: list[dict], references: list[str]) -> dict[str, Any]:
    """Without </s>, which one side may not write down. The engine's guard ends what only repeats itself; PyTorch goes on to the limit."""
    want, references = want[: len(have)], references[: len(have)]
    eos = translation_config(model_folder(MODEL))["eos"]
    runs = [[[token for token in line["ids"] if token != eos] for line in run] for run in (want, have)]
    equal = [i for i, (a, b) in enumerate(zip(*runs, strict=True)) if a == b]
    depths = [[depth for line in run for depth in line["depths"]] for run in (want, have)]
    means = [sum(of_run) / len(of_run) for of_run in depths]
    # Of the same tokens, so that depths can be compared one by one.
    pairs = [(a, b) for i in equal for a, b in zip(want[i]["depths"], have[i]["depths"], strict=False)]
    logprobs = [abs(a - b) for i in equal for a, b in zip(want[i]["logprobs"], have[i]["logprobs"], strict=False)]
    texts = [tokenizer().decode_batch(run, skip_special_tokens=True) for run in runs]
    metric = BLEU()
    bleu = [metric.corpus_score(of_run, [references]).score for of_run in texts]
    return {
        "sentences": len(have),
        "equal": len(equal),
        "ended_as_repetition": sum(line.get("finish_reason") == "repetition" for line in have),
        "tokens": [len(of_run) for of_run in depths],
        "depths_equal": sum(a == b for a, b in pairs) / max(1, len(pairs)),
        "mean_depths": means,
        "mean_depth_apart": abs(means[1] - means[0]) / means[0],
        "logprob_max": max(logprobs, default=0.0),
        "logprob_mean": sum(logprobs) / max(1, len(logprobs)),
        "bleu": bleu,
        "bleu_apart": abs(bleu[1] - bleu[0]),
        "bleu_signature": str(metric.get_signature()),
        "different": [
            {"sentence": i, "reference": texts[0][i], "engine": texts[1][i]} for i in range(len(have)) if runs[0][i] != runs[1][i]
        ][:WORST],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("engine", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limits", choices=list(LIMITS), default="pytorch")
    parser.add_argument("--references", type=Path, default=ROOT / ".gpu" / "inputs" / "references.json", help="translations, for BLEU")
    args = parser.parse_args()
    result: dict[str, dict[str, Any]] = {}
    if (args.engine / "index.json").exists():
        result["scores"] = compare_scores(read_scores(args.reference), read_scores(args.engine))
    if (args.engine / TRANSLATIONS).exists():
        references = json.loads(args.references.read_text())
        result["translations"] = compare_translations(read_translations(args.reference), read_translations(args.engine), references)
    if not result:
        parser.error(f"{args.engine} holds neither index.json nor {TRANSLATIONS}")
    failures = [f"{half}: {failure}" for half, figures in result.items() for failure in missed(figures, LIMITS[args.limits])]
    write_json(args.out, {"limits": LIMITS[args.limits], "missed": failures, **result})
    for half, figures in result.items():
        print(half, json.dumps({key: value for key, value in figures.items() if key not in ("worst", "different")}, indent=1))
    print("\n".join(failures) or "every limit is met")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast gpu_models.py goes over all texts, at several batch sizes; called by gpu_baseline.py."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from export import write_json
from gpu_models import Compile, FastLanguageModel, as_it_is, by_inductor
from gpu_translator import FastTranslator
from translation_pytorch import MAX_NEW_TOKENS, by_length
from universal_transformer import LanguageModel, TranslationModel

WINDOWS_A_BATCH = (32, 64, 128, 256, 512)
SENTENCES_A_BATCH = (64, 128, 256, 512)
VARIANTS: dict[str, Compile] = {
    "compiled": by_inductor("default"),
    "tuned": by_inductor("max-autotune-no-cudagraphs"),
    "eager": as_it_is,
}
# Passes over all texts; those of the best batch size are repeated, and the median of them counts.
SCORE_PASSES, SCORE_PASSES_OF_BEST = 2, 5
TRANSLATE_PASSES, TRANSLATE_PASSES_OF_BEST = 1, 3


class Report:
    """A JSON file written anew with each measurement, and the deadline. `attempt` keeps the failure of one from the others."""

    def __init__(self, path: Path, seconds_max: float, facts: dict[str, Any]):
        self.path, self.began, self.seconds_max, self.facts = path, time.monotonic(), seconds_max, facts

    def add(self, where: str, what: dict[str, Any]) -> None:
        self.facts.setdefault(where, []).append(what)
        print(f"{time.monotonic() - self.began:6.1f} s  {where}: {json.dumps(what)}", flush=True)
        write_json(self.path, self.facts)

    def attempt(self, where: str, do: Callable[[], dict[str, Any]]) -> None:
        if time.monotonic() - self.began > self.seconds_max:
            self.add(where, {"error": f"not begun: {self.seconds_max} seconds had passed"})
            return
        try:
            self.add(where, do())
        except Exception as error:
            traceback.print_exc()
            self.add(where, {"error": f"{type(error).__name__}: {str(error)[:500]}"})

    def best(self, where: str) -> dict[str, Any] | None:
        known = [rate for rate in self.facts.get(where, []) if "tokens_per_second" in rate]
        return max(known, key=lambda rate: rate["tokens_per_second"], default=None)


def timed(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    synchronise = torch.cuda.synchronize if device != "cpu" else lambda: None
    synchronise()
    began = time.perf_counter()
    result = work()
    synchronise()
    return time.perf_counter() - began, result


def measure(device: str, one_pass: Callable[[], Any], tokens_of: Callable[[Any], int], passes: int) -> tuple[dict[str, Any], Any]:
    """The rate of the median pass after one to warm up, and what the last pass returned."""
    warm_up, _ = timed(device, one_pass)
    runs = [timed(device, one_pass) for _ in range(passes)]
    seconds = statistics.median(s for s, _ in runs)
    last = runs[-1][1]
    rate = {"tokens_per_second": round(tokens_of(last) / seconds), "tokens": tokens_of(last)}
    return rate | {"seconds": [round(s, 4) for s, _ in runs], "warm_up_seconds": round(warm_up, 2)}, last


def speed_of_scores(model: FastLanguageModel, texts: list[list[int]], batch: int, asks: bool, passes: int) -> dict[str, Any]:
    """Padded and in pinned memory beforehand, so the device waits for no tokens; log-probabilities and depths come back to the host."""
    groups = list(by_length(texts, batch))
    padded = [model.pad([texts[i] for i in indices]) for indices in groups]
    if model.device != "cpu":
        padded = [(targets.pin_memory(), counts.pin_memory()) for targets, counts in padded]
    tokens = sum(map(len, texts))

    def one_pass() -> list[tuple[torch.Tensor, ...]]:
        done = [model.score(targets, counts, asks) for targets, counts in padded]
        return [(logprobs.cpu(), depths.cpu()) for logprobs, depths in done]

    rate, last = measure(model.device, one_pass, lambda _: tokens, passes)
    valid = [torch.arange(targets.shape[1])[None] < counts[:, None] for targets, counts in padded]
    logprob = sum(logprobs[mask].double().sum().item() for (logprobs, _), mask in zip(last, valid, strict=True))
    return rate | {
        "batches": len(groups),
        "padding": round(sum(targets.numel() for targets, _ in padded) / tokens - 1, 4),
        "mean_depth": round(sum(int(depths.sum()) for _, depths in last) / tokens, 4),
        "deepest_mean": round(statistics.mean(int(depths.max()) for _, depths in last), 3),
        "logprob_mean": round(logprob / tokens, 6),
    }


def speed_of_translations(model: FastTranslator, texts: list[list[int]], batch: int, passes: int) -> dict[str, Any]:
    groups = list(by_length(texts, batch))
    model.reserve(batch)

    def one_pass() -> list[list[dict[str, Any]]]:
        return [model.translate([texts[i] for i in indices], MAX_NEW_TOKENS) for indices in groups]

    rate, last = measure(model.device, one_pass, lambda batches: sum(len(s["ids"]) for done in batches for s in done), passes)
    depths = [sentence["depths"] for done in last for sentence in done]
    # Of each token of each batch: the deepest of those who still spoke.
    deepest = [max(s["depths"][k] for s in done if k < len(s["depths"])) for done in last for k in range(max(len(s["ids"]) for s in done))]
    return rate | {
        "batches": len(groups),
        "mean_depth": round(sum(map(sum, depths)) / rate["tokens"], 4),
        "deepest_mean": round(statistics.mean(deepest), 3),
        "steps_a_token": model.decoder.steps_max,
        "graphs": len(model.captured),
        "cut": sum(len(of_sentence) == MAX_NEW_TOKENS for of_sentence in depths),
    }


def measure_scores(report: Report, model: LanguageModel, texts: list[list[int]], device: str, variant: str) -> None:
    """The first variant at all batch sizes, any other at the best of those; the best so far again, with more passes."""
    known = report.best("scores")
    fast = FastLanguageModel(model, torch.float32 if device == "cpu" else torch.float16, device, VARIANTS[variant])

    def rate(batch: int, asks: bool, passes: int) -> dict[str, Any]:
        about = {"variant": variant, "batch": batch, "asks_each_step": asks}
        return about | speed_of_scores(fast, texts, batch, asks, passes)

    ways = [(known["batch"], known["asks_each_step"])] if known else [(batch, asks) for batch in WINDOWS_A_BATCH for asks in (True, False)]
    for way in ways:
        report.attempt("scores", partial(rate, *way, SCORE_PASSES))
    best = report.best("scores")
    if best and best["variant"] == variant:
        report.attempt("scores, best", partial(rate, best["batch"], best["asks_each_step"], SCORE_PASSES_OF_BEST))


def measure_translations(report: Report, model: TranslationModel, texts: list[list[int]], device: str, variant: str) -> None:
    """As for scores. Without CUDA graphs only where they failed."""
    known = report.best("translations")
    batches = (known["batch"],) if known else SENTENCES_A_BATCH
    for graphs in (True, False) if device != "cpu" else (False,):
        fast = FastTranslator(model, torch.float32 if device == "cpu" else torch.float16, device, VARIANTS[variant], graphs)

        def rate(batch: int, passes: int, fast: FastTranslator = fast) -> dict[str, Any]:
            return {"variant": variant, "batch": batch} | speed_of_translations(fast, texts, batch, passes)

        for batch in batches:
            report.attempt("translations", partial(rate, batch, TRANSLATE_PASSES))
        best = report.best("translations")
        if best and best["variant"] == variant:
            report.attempt("translations, best", partial(rate, best["batch"], TRANSLATE_PASSES_OF_BEST))
        if any(entry.get("variant") == variant for entry in report.facts["translations"]):
            break

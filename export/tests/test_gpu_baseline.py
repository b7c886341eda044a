"""The loops in PyTorch that the engine is compared with compute what the reference does, and the comparison sees what differs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_baseline import load_models, reference_scores, reference_translations
from gpu_inputs import LONGEST, SHORTEST, cut, draw_lengths
from gpu_models import FastLanguageModel, as_it_is
from gpu_parity import LIMITS, compare_scores, compare_translations, missed
from gpu_results import Scores, read_scores, read_translations, write_scores, write_translations
from gpu_speed import Report, speed_of_scores
from gpu_translator import FastTranslator
from harness import ROOT
from universal_transformer import LanguageModel, TranslationModel

SEED = 5


@pytest.fixture(scope="module")
def models() -> tuple[LanguageModel, TranslationModel]:
    return load_models(ROOT / "models", "cpu")


@pytest.fixture(scope="module")
def windows() -> list[list[int]]:
    draw = torch.Generator().manual_seed(SEED)
    return [torch.randint(4, 8000, (length,), generator=draw).tolist() for length in (1, 7, 8, 21)]


@pytest.fixture(scope="module")
def sources() -> list[list[int]]:
    cases = json.loads((ROOT / "models" / "ut-mt-ende" / "golden.json").read_text())
    return sorted((case["source_ids"] for case in cases), key=len)[:6]


@pytest.mark.parametrize("asks", [True, False])
def test_scores_are_those_of_the_reference(models, windows, asks: bool) -> None:
    want = reference_scores(models[0], windows, "cpu")
    fast = FastLanguageModel(models[0], torch.float32, "cpu", as_it_is)
    logprobs, depths = fast.score(*fast.pad(windows), asks)
    rows = lambda values: np.concatenate([row[: len(ids)].numpy() for row, ids in zip(values, windows, strict=True)])
    assert rows(depths).tolist() == want.depth.tolist()
    assert rows(logprobs) == pytest.approx(want.logprob, abs=1e-4)
    assert int(depths.sum()) == want.depth.sum(), "padding has no depth"


def test_translations_are_those_of_the_reference(models, sources) -> None:
    want = reference_translations(models[1], sources, "cpu")
    fast = FastTranslator(models[1], torch.float32, "cpu", as_it_is, graphs=False)
    fast.BATCH_MIN = 2  # so that the batch is halved when sentences end
    fast.reserve(len(sources))
    for line, said in zip(want, fast.translate(sources, 127), strict=True):
        assert (said["ids"], said["depths"]) == (line["ids"], line["depths"])
        assert said["logprobs"] == pytest.approx(line["logprobs"], abs=1e-4)


def test_a_failure_stays_its_own(models, windows, tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", 60, {})
    fast = FastLanguageModel(models[0], torch.float32, "cpu", as_it_is)
    report.attempt("scores", lambda: speed_of_scores(fast, [[1e9]], 2, True, 1))
    report.attempt("scores", lambda: speed_of_scores(fast, windows, 2, True, 1))
    failed, rate = json.loads((tmp_path / "report.json").read_text())["scores"]
    assert "error" in failed and rate["tokens"] == sum(map(len, windows)) and rate["batches"] == 2
    assert report.best("scores") == rate
    Report(late := tmp_path / "late.json", -1, {}).attempt("scores", lambda: pytest.fail("begun"))
    assert "not begun" in json.loads(late.read_text())["scores"][0]["error"]


def some_scores() -> Scores:
    draw = np.random.default_rng(SEED)
    depth = draw.integers(1, 9, 1000).astype("u1")
    return Scores("m", [400, 1, 599], -draw.random(1000).astype("f4"), depth, draw.random(1000).astype("f4"))


def test_files_hold_what_was_written(tmp_path: Path) -> None:
    scores = some_scores()
    write_scores(tmp_path, scores)
    back = read_scores(tmp_path)
    assert back.counts == scores.counts and back.model == "m"
    for name in ("logprob", "depth", "remainder"):
        assert getattr(back, name).tolist() == getattr(scores, name).tolist()
    (tmp_path / "depth.u8").write_bytes(b"1")
    with pytest.raises(ValueError, match="depth.u8: 1 values, but index.json counts 1000"):
        read_scores(tmp_path)
    lines = [{"ids": [5, 2], "logprobs": [-0.5, -0.25], "depths": [3, 2], "encoder_depths": [1]}]
    write_translations(tmp_path, lines)
    assert read_translations(tmp_path) == lines


def test_parity_of_scores() -> None:
    want = some_scores()
    logprob, depth = want.logprob.copy(), want.depth.copy()
    logprob[402] += 0.5
    logprob[500] += 0.25
    logprob[300] += 0.125
    depth[402:406] += 1
    figures = compare_scores(want, replace(want, logprob=logprob, depth=depth))
    assert figures["depths_equal"] == 0.996 and figures["logprob_max_at_equal_depth"] == pytest.approx(0.25)
    assert figures["logprob_max"] == pytest.approx(0.5) and figures["logprob_mean"] == pytest.approx(8.75e-4)
    first = {"window": 2, "token": 1, "apart": 0, "depths": [want.depth[402], depth[402]], "depths_apart_before": 1}
    assert figures["worst"][0] | {"apart": 0} == first
    # Token 500 sees four positions that halted at another step, token 300 none.
    assert [token["depths_apart_before"] for token in figures["worst"][1:3]] == [4, 0]
    assert figures["logprob_max_where_none_differs"] == pytest.approx(0.125)
    assert missed(figures, LIMITS["pytorch"]) == ["logprob_max is 0.5, the limit 0.02"]
    assert [line.split()[0] for line in missed(figures, LIMITS["batch"])] == ["logprob_max", "depths_equal"]
    assert missed({"logprob_max": float("nan")}, LIMITS["batch"]), "NaN is no pass"
    # The first windows alone are compared with the first windows.
    few = Scores("m", [400], want.logprob[:400], want.depth[:400], want.remainder[:400])
    assert compare_scores(want, few)["logprob_max"] == 0
    with pytest.raises(ValueError, match="the same windows"):
        compare_scores(few, want)


def test_parity_of_translations(models, sources) -> None:
    want = reference_translations(models[1], sources[:3], "cpu")
    have = [dict(line, ids=[token for token in line["ids"] if token != models[1].config["eos"]]) for line in want]
    references = ["Das ist ein Satz.", "Und noch einer.", "Der letzte."]
    same = compare_translations(want, have, references)
    assert (same["equal"], same["bleu_apart"], same["depths_equal"], same["logprob_max"]) == (3, 0, 1, 0)
    have[1] = have[1] | {"ids": have[1]["ids"][::-1], "finish_reason": "repetition"}
    other = compare_translations(want, have, references)
    assert (other["equal"], other["ended_as_repetition"], [d["sentence"] for d in other["different"]]) == (2, 1, [1])


def test_windows_have_the_lengths_drawn() -> None:
    lengths = draw_lengths(2000, random.Random(SEED))
    assert SHORTEST <= min(lengths) and max(lengths) <= LONGEST and 110 < sum(lengths) / 2000 < 145
    assert cut([1, 2, 3, 4, 5], [2, 1]) == [[1, 2], [3]]
    with pytest.raises(ValueError, match="3 tokens are needed and the text has 2"):
        cut([1, 2], [2, 1])

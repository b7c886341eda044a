"""Translation's package means what its checkpoint means, and the server translates with it as PyTorch does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import translation_parity
from export import read_constants
from harness import MAIN, ROOT, checkpoint_folder, model_folder
from translation_harness import MODEL, Engine, read_pairs, reference_translation
from translation_parity import TIE, Row, Wanted, by_pytorch
from translation_pytorch import LastLogits, greedy, mean_of
from universal_transformer import Translation, TranslationModel, load

SEED = 7


def golden(folder: Path) -> list[dict]:
    return json.loads((folder / "golden.json").read_text())


def test_golden_file_of_the_checkpoint(shared: Path) -> None:
    folder = checkpoint_folder(MODEL)
    model = TranslationModel(*load(folder))
    cases = golden(folder)
    for case, t in zip(cases, model.greedy([case["source_ids"] for case in cases]), strict=True):
        assert t.margin > TIE and min(t.gaps) > TIE, "a tie: its golden figures may go either way"
        assert (t.ids, t.encoder_depth, t.decoder_depth) == (case["ids"], case["encoder_depth"], case["decoder_depth"])
        assert t.logprobs == pytest.approx(case["logprobs"], abs=1e-4)


def test_golden_file_of_the_package() -> None:
    model = reference_translation(model_folder(MODEL))
    cases = golden(model_folder(MODEL))
    for case, t in zip(cases, model.greedy([case["source_ids"] for case in cases]), strict=True):
        assert (t.ids, t.encoder_depth, t.decoder_depth) == (case["ids"], case["encoder_depth"], case["decoder_depth"])
        assert t.logprobs == pytest.approx(case["logprobs"], abs=2e-4)


def export(target: Path) -> Path:
    """In a process of its own, because an export sets PyTorch's number of threads."""
    subprocess.run([sys.executable, ROOT / "export" / "export.py", checkpoint_folder(MODEL), target], check=True)
    return target


@pytest.fixture(scope="module")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("first") / MODEL)


def test_twice_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    again = export(tmp_path / MODEL)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in exported.iterdir()}


def test_the_committed_package_is_this_export(exported: Path) -> None:
    """To the byte where nothing is summed; the sums, a few biases and the golden figures, may end in another bit on another CPU."""
    committed = model_folder(MODEL)
    assert {p.name for p in committed.iterdir()} == {p.name for p in exported.iterdir()}
    for name in [p.name for p in exported.glob("*.onnx")] + ["tokenizer.json"]:
        assert (committed / name).read_bytes() == (exported / name).read_bytes(), name
    new, old = read_constants(exported), read_constants(committed)
    assert new.keys() == old.keys()
    for name, value in new.items():
        tolerance = 0 if value.dtype == torch.int8 else 1e-6
        torch.testing.assert_close(old[name], value, atol=tolerance, rtol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
    for a, b in zip(golden(exported), golden(committed), strict=True):
        assert (a["ids"], a["encoder_depth"], a["decoder_depth"]) == (b["ids"], b["encoder_depth"], b["decoder_depth"])
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (exported, committed)]
    for manifest in manifests:
        manifest["quality"].pop("measured", None)  # an export starts without it
        for name in ("weights.bin", "golden.json"):
            del manifest["files"][name]
    assert manifests[0] == manifests[1]


def test_skipping_logits_changes_nothing(shared: Path) -> None:
    ids = read_pairs("tatoeba_test", 6).ids
    folder = model_folder(MODEL)
    plain = greedy(reference_translation(folder), ids, 3)
    quick = greedy(reference_translation(folder, LastLogits), ids, 6)
    assert [(t.ids, t.decoder_depth) for t in plain] == [(t.ids, t.decoder_depth) for t in quick]


@pytest.fixture(scope="module")
def built() -> None:
    if shutil.which("node") is None or not (ROOT / "node_modules").is_dir():
        pytest.skip("no node, or no node_modules: run npm ci")
    if not MAIN.exists():
        subprocess.run(["npm", "run", "--silent", "build"], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def exact(built: None) -> Iterator[Engine]:
    with Engine("float32", 2) as engine:
        yield engine


@pytest.fixture(scope="module")
def int8(built: None) -> Iterator[Engine]:
    with Engine("int8", 2, models=(MODEL, translation_parity.SCORED_MODEL)) as engine:
        yield engine


def passed(rows: list[Row]) -> bool:
    return bool(rows) and all(row.passed for row in rows)


def test_ten_sentences_against_pytorch(exact: Engine, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = reference_translation(model_folder(MODEL)), []
    ids = [*translation_parity.sample(9, SEED), read_pairs("tatoeba_test", 1).ids[0]]
    translation_parity.check_greedy(exact, model, ids, rows.append)
    monkeypatch.setattr(translation_parity, "BUDGETS", [{}, {"max_steps": 2}, {"max_steps": 4, "min_steps": 3, "threshold": 0.8}])
    translation_parity.check_budgets(exact, model, sorted(ids, key=len)[:3], rows.append)
    assert passed(rows), [(row.line(), row.differs) for row in rows]


def test_one_at_a_time_and_all_at_once(int8: Engine, shared: Path) -> None:
    rows: list[Row] = []
    translation_parity.check_batch(int8, translation_parity.sample(9, SEED), SEED, rows.append)
    assert len(rows) == 3 and passed(rows), [(row.line(), row.differs) for row in rows]


def test_an_empty_batch_is_answered(int8: Engine) -> None:
    assert int8.ask([])["results"] == []


def wanted(margin: float = 1.0, gap: float = 1.0, encoder_margin: float = 1.0) -> Wanted:
    t = Translation([5, 6, 2], [-1.0, -2.0, -0.5], [2, 3, 2], [2, 2], [1.0, gap, 1.0], 0.0)
    return Wanted(t, [1.0, encoder_margin], [1.0, margin, 1.0])


def answer(**changes: object) -> dict:
    best = {"ids": [5, 6], "logprobs": [-1.0, -2.0, -0.5], "depths": [2, 3, 2], "finish_reason": "stop"}
    depths = changes.pop("encoder_depths", [2, 2])
    return {"hypotheses": [best | changes], "encoder_depths": depths}


def compared(want: Wanted, have: dict) -> Row:
    row = Row("row")
    row.compare("sentence", want, have, eos=2)
    return row


def test_what_counts_as_a_difference() -> None:
    assert compared(wanted(), answer()).passed and compared(wanted(), answer()).tokens == 3
    assert compared(wanted(), answer(depths=[2, 4, 2])).differs == ["sentence, token 1: depth 3 and 4, margin 1.0e+00"]
    assert compared(wanted(), answer(ids=[5, 7])).differs == ["sentence, token 1: 6 and 7, gap 1.0e+00"]
    assert compared(wanted(), answer(encoder_depths=[2, 3])).differs == ["sentence, source position 1: depth 2 and 3, margin 1.0e+00"]
    assert not compared(wanted(), answer(logprobs=[-1.0, -2.0002, -0.5])).passed
    cut = answer(ids=[5], logprobs=[-1.0], depths=[2], finish_reason="length")
    assert compared(wanted(), cut).differs == ["sentence: 3 tokens and 1"]
    assert not compared(wanted(), cut | {"hypotheses": [cut["hypotheses"][0] | {"finish_reason": "repetition"}]}).differs
    assert not Row("nothing was compared").passed


def test_a_tie_is_excused_where_it_is_and_not_elsewhere() -> None:
    deeper = answer(depths=[2, 4, 2])
    assert compared(wanted(margin=5e-6), deeper).excused == ["sentence, token 1: depth 3 and 4, margin 5.0e-06"]
    assert compared(wanted(margin=5e-6), deeper).tokens == 1
    assert compared(wanted(margin=5e-6), answer()).ties == ["sentence, margin of token 1: 5.0e-06"]
    assert not compared(wanted(gap=5e-6), deeper).excused
    assert compared(wanted(gap=5e-6), answer(ids=[5, 7])).passed
    assert compared(wanted(encoder_margin=5e-6), answer(encoder_depths=[2, 1])).excused
    assert not compared(wanted(encoder_margin=5e-6), deeper).excused


def test_margins_are_those_of_greedy(shared: Path) -> None:
    model = reference_translation(model_folder(MODEL))
    ids = read_pairs("multi30k_2016", 3).ids
    for want, t in zip(by_pytorch(model, ids), greedy(model, ids, 3), strict=True):
        assert min(*want.encoder_margin, *want.decoder_margin) == pytest.approx(t.margin, abs=1e-5)
        assert len(want.decoder_margin) == len(t.ids)


def test_exact_comparison_names_the_place() -> None:
    row = Row("row")
    row.compare_exactly("request 0", answer(), answer())
    assert row.passed
    row.compare_exactly("request 1", answer(), answer(logprobs=[-1.0, -2.0, -0.5000001]))
    assert row.differs == ["request 1: hypotheses[0].logprobs[2] is -0.5 alone and -0.5000001 in a batch"]


def test_mean_of() -> None:
    assert mean_of([[2, 3], [4]]) == 3.0

"""The measurements themselves: what counts as a difference, and a few texts through the real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import parity
from harness import MAIN, ROOT, Server, Text, model_folder, read_text, reference_model, windows
from parity import Row, Scored
from quality import Sums, batches, changes

MODEL = "ut-lm-en"
SEED = 7


@pytest.fixture(scope="module")
def built() -> None:
    if shutil.which("node") is None or not (ROOT / "node_modules").is_dir():
        pytest.skip("no node, or no node_modules: run npm ci")
    if not MAIN.exists():
        subprocess.run(["npm", "run", "--silent", "build"], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[list[int]]:
    ids = read_text(parity.SET, model_folder(MODEL) / "tokenizer.json", bytes_max=40_000).ids
    return parity.slices(ids, 8, 200, SEED)


@pytest.fixture(scope="module", params=["float32", "int8"])
def server(request: pytest.FixtureRequest, built: None) -> Iterator[Server]:
    with Server(request.param, MODEL) as running:
        yield running


def test_one_at_a_time_and_all_at_once(server: Server, texts: list[list[int]]) -> None:
    rows: list[Row] = []
    parity.check_batch(server, server.precision, 8, texts, SEED, rows.append)
    assert all(row.passed for row in rows), [row.line() for row in rows]


def test_against_pytorch(server: Server, texts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    if server.precision != "float32":
        pytest.skip("int8 arithmetic is compared by what it is worth: quality.py")
    some = [{"max_steps": 2}, {"min_steps": 5}, {"threshold": 0.5}, {"max_steps": 5, "min_steps": 3, "threshold": 0.9}]
    monkeypatch.setattr(parity, "budgets", lambda _: some)
    rows: list[Row] = []
    parity.check_pytorch(server, reference_model(model_folder(MODEL)), texts, rows.append)
    assert len(rows) == 2
    assert all(row.passed for row in rows), [row.line() for row in rows]


def test_a_refusal_is_raised(server: Server) -> None:
    with pytest.raises(RuntimeError, match="422|400"):
        server.score([1], max_steps=99)


def test_slices_cover_all_lengths() -> None:
    ids = list(range(5000))
    texts = parity.slices(ids, 200, 511, SEED)
    lengths = sorted(map(len, texts))
    assert (len(texts), lengths[0], lengths[-1]) == (200, 1, 511)
    assert max(b - a for a, b in zip(lengths, lengths[1:], strict=False)) <= 3
    assert texts == parity.slices(ids, 200, 511, SEED) != parity.slices(ids, 200, 511, SEED + 1)


WANT = Scored([-1.0, -2.0, -3.0], [3, 4, 3], [0.5, 0.5, 0.5], [0.2, 5e-6, 0.3])


def compared(have: Scored, want: Scored = WANT, tolerance: float = 1e-4) -> Row:
    row = Row("row", tolerance)
    row.compare("text", want, have)
    return row


def test_a_row_passes_within_its_tolerance_only() -> None:
    same = Scored(WANT.logprobs, WANT.depths, WANT.remainders)
    assert compared(same, tolerance=0).passed
    assert compared(Scored([-1.00009, -2.0, -3.0], WANT.depths, WANT.remainders)).passed
    assert not compared(Scored([-1.00011, -2.0, -3.0], WANT.depths, WANT.remainders)).passed
    assert not compared(Scored(WANT.logprobs, WANT.depths, [0.5, 0.5002, 0.5])).passed
    assert not compared(Scored(WANT.logprobs, [2, 4, 3], WANT.remainders)).passed
    assert not Row("nothing was compared", 1.0).passed


def test_a_tie_is_excused_and_listed() -> None:
    agreed = compared(Scored(WANT.logprobs, WANT.depths, WANT.remainders))
    assert (agreed.tokens, len(agreed.excused)) == (3, 1)
    flipped = compared(Scored([-1.0, -9.0, -9.0], [3, 5, 4], WANT.remainders))
    assert flipped.passed and flipped.tokens == 1
    assert flipped.excused == ["text, token 1: margin 5.0e-06, depth 4 and 5, 1 tokens follow"]
    # Without a margin, as between two runs of the server, nothing is excused.
    bare = Scored(WANT.logprobs, WANT.depths, WANT.remainders)
    assert not compared(Scored(WANT.logprobs, [3, 5, 3], WANT.remainders), want=bare).passed


def test_quality_figures() -> None:
    sums = Sums(4)
    sums.add(-3.0, 0.5, [0, 0, 2, 1, 0])
    sums.add(-1.0, 0.5, [0, 0, 0, 0, 1])
    assert sums.figures(Text("text", [9, 9, 9, 9], 8)) == {
        "bits_per_byte": 0.72135,  # 4 nats over 8 bytes
        "perplexity": 2.718,
        "mean_depth": 2.75,
        "ponder_cost": 3.0,
        "depth_histogram": {"1": 0.0, "2": 0.5, "3": 0.25, "4": 0.25},
    }
    with pytest.raises(RuntimeError, match="4 of 5 tokens"):
        sums.figures(Text("text", [9] * 5, 8))


def test_quality_changes() -> None:
    figures = {"pytorch": {"bits_per_byte": 1.0, "mean_depth": 4.0}, "int8": {"bits_per_byte": 1.004, "mean_depth": 3.9}}
    assert changes(figures) == {"bits_per_byte_worse": 0.004, "mean_depth_off": 0.025}


def test_windows_and_batches() -> None:
    assert windows([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert list(batches([1, 2, 3], 2, "label")) == [[1, 2], [3]]

"""Figures of translations: which sentences, which references, what is missed."""

from __future__ import annotations

from pathlib import Path

import pytest

from translation_harness import Pairs, read_lines, read_pairs
from translation_quality import all_references, best_at, missed, table, worth


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\u2028still one\n\ntwo\x0b\n", encoding="utf-8")
    assert read_lines(path) == ["one\u2028still one", "", "two\x0b"]


def test_pairs_hold_their_end_of_sentence(shared: Path) -> None:
    pairs = read_pairs("tatoeba_test", 3)
    assert pairs.sources[0] == "I had a cat." and pairs.ids[0] == [44, 1460, 263, 8016, 17, 2]
    assert (len(pairs.references), pairs.cut) == (3, 0)
    assert all(len(ids) <= 128 and ids[-1] == 2 for ids in read_pairs("newstest2014").ids)


def test_references_of_tatoeba(shared: Path) -> None:
    pairs = read_pairs("tatoeba_test")
    streams = all_references("tatoeba_test", pairs)
    assert streams is not None
    assert streams[0] == pairs.references
    assert None in streams[1] and len(streams[1]) == len(pairs.sources)
    assert all_references("newstest2014", pairs) is None
    other = Pairs(pairs.name, ["x", *pairs.sources[1:]], pairs.references, pairs.ids, 0)
    with pytest.raises(ValueError, match="other sources"):
        all_references("tatoeba_test", other)


def test_worth() -> None:
    references = ["Das ist ein kleines Haus am See.", "Wir gehen heute noch nach Hause."]
    exact = worth(references, [references])
    assert exact["bleu"] == exact["chrf"] == 100
    assert "version:2.5.1" in exact["signature"] and exact["signature"].startswith("nrefs:1|case:mixed")
    one_of_two = worth(["Das ist ein Haus hier.", references[1]], [references, ["Das ist ein Haus hier.", None]])
    assert one_of_two["bleu"] == 100


def hypothesis(ids: list[int], logprobs: list[float]) -> dict:
    return {"ids": ids, "logprobs": logprobs}


def test_the_best_of_a_beam_depends_on_the_penalty() -> None:
    short, long = hypothesis([1], [-0.5, -0.5]), hypothesis([1, 2, 3], [-0.4, -0.3, -0.3, -0.4])
    assert best_at([short, long], 0.0) == [1]
    assert best_at([short, long], 1.0) == [1, 2, 3]
    assert best_at([short, hypothesis([9], [-0.5, -0.5])], 1.0) == [1]


def entry(pytorch: float, greedy: float, beam: float) -> dict:
    figures = lambda bleu: {"bleu": bleu, "chrf": 60.0, "encoder_depth": 3.0, "decoder_depth": 3.0}
    return {"sentences": 1000, "pytorch": figures(pytorch), "int8_greedy": figures(greedy), "int8_beam": figures(beam)}


def test_limits() -> None:
    assert missed({"a": entry(38.0, 37.7, 37.7), "b": entry(15.0, 15.5, 16.0)}) == []
    assert missed({"a": entry(38.0, 37.69, 38.5)}) == ["a: int8 greedy 37.69 against PyTorch 38.0"]
    assert missed({"a": entry(38.0, 38.0, 37.99)}) == ["a: beam 37.99 against greedy 38.0"]
    assert "| a | 1000 | server int8 beam 4 | 38.50 | 60.00 | 3.00 | 3.00 | +0.50 |" in table({"a": entry(38.0, 37.9, 38.5)})

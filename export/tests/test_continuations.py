"""Greedy continuation: the committed file is what PyTorch says, and what it says is what it scores."""

from __future__ import annotations

import json

import pytest
import torch

from continuations import FILE, LENGTHS, MODEL, NEW_TOKENS, continuations, prompts
from harness import model_folder, reference_model

TIE = 1e-4


def test_committed_file() -> None:
    committed = json.loads(FILE.read_text())
    assert [case["prompt"] for case in committed] == prompts()
    assert len(committed) == len(LENGTHS) == 20
    few = [committed[i] for i in (0, 4, 13)]
    for case, again in zip(few, continuations([case["prompt"] for case in few]), strict=True):
        assert min(case["gaps"]) > TIE, "a tie: its tokens may go either way"
        assert again["ids"] == case["ids"] and again["depth"] == case["depth"]
        assert again["logprobs"] == pytest.approx(case["logprobs"], abs=2e-4)


def test_a_continuation_is_what_scoring_says_of_the_whole_text() -> None:
    model = reference_model(model_folder(MODEL))
    case = json.loads(FILE.read_text())[6]
    text, start = case["prompt"] + case["ids"], len(case["prompt"])
    logprobs, ponder = model.score([text])[0]
    assert logprobs[start:].argmax(-1).tolist() == case["ids"]
    chosen = logprobs[torch.arange(len(text)), torch.tensor(text)][start:]
    assert chosen.tolist() == pytest.approx(case["logprobs"], abs=2e-4)
    assert ponder.depth[start:].tolist() == case["depth"]
    assert len(case["ids"]) == NEW_TOKENS

"""The PyTorch reference reproduces what the checkpoint's makers recorded, and refuses what it does not compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from universal_transformer import SUPPORTED, LanguageModel, load

# Nearer to the threshold than this, either depth is right.
TIE = 1e-5


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LanguageModel:
    return LanguageModel(*load(checkpoint))


@pytest.fixture(scope="module")
def golden(checkpoint: Path) -> list[dict]:
    return json.loads((checkpoint / "golden.json").read_text())


def test_golden(model: LanguageModel, golden: list[dict]) -> None:
    for case in golden:
        [(logprobs, ponder)] = model.score([case["ids"]])
        chosen = logprobs.gather(1, torch.tensor(case["ids"])[:, None]).squeeze(1)
        clear = ponder.margin > TIE
        assert torch.equal(ponder.depth[clear], torch.tensor(case["depth"])[clear]), case["text"]
        torch.testing.assert_close(chosen, torch.tensor(case["logprobs"]), atol=1e-4, rtol=0)
        torch.testing.assert_close(ponder.remainder[clear], torch.tensor(case["remainder"])[clear], atol=1e-4, rtol=0)


def test_padding_changes_nothing(model: LanguageModel, golden: list[dict]) -> None:
    texts = [case["ids"][:48] for case in golden]
    for ids, (logprobs, ponder) in zip(texts, model.score(texts), strict=True):
        [(alone, ponder_alone)] = model.score([ids])
        torch.testing.assert_close(logprobs, alone, atol=1e-4, rtol=0)
        assert torch.equal(ponder.depth, ponder_alone.depth)


def test_budgets(model: LanguageModel, golden: list[dict]) -> None:
    ids = [max((case["ids"] for case in golden), key=len)[:64]]
    depth = lambda **budget: model.score(ids, model.budget(**budget))[0][1].depth
    free = depth()
    assert int(free.max()) > 3
    assert int(depth(max_steps=3).max()) == 3
    assert torch.equal(depth(max_steps=3)[0], free[0].clamp(max=3))  # the first position sees only itself
    assert int(depth(min_steps=4).min()) == 4
    assert set(depth(max_steps=5, min_steps=5).tolist()) == {5}
    assert depth(threshold=1e-6).sum() < depth(threshold=0.5).sum() < free.sum()


@pytest.mark.parametrize("option", sorted(SUPPORTED))
def test_unsupported_option_is_named(option: str, checkpoint: Path, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors", "tokenizer.json", "golden.json"):
        shutil.copyfile(checkpoint / file, tmp_path / file)
    config = json.loads((checkpoint / "config.json").read_text())
    for wrong in ({**config, option: "another"}, {k: v for k, v in config.items() if k != option}):
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"{option} is "):
            load(tmp_path)

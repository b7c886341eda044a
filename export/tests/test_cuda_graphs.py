"""The float16 graphs against PyTorch on the same weights: lanes of unlike lengths and budgets, some entering later, rows of padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import universal_transformer_onnx as ut
from export import read_constants, write_package
from graph_loop import Graphs, Lane, Limits, Pools, ponder, score
from harness import model_folder, package_config, reference_model
from test_translation import golden
from translation_harness import translation_config

LOGPROB_MAX = 2e-2
DEPTH_EQUAL = 0.99


def package(name: str, config: dict, folder: Path) -> Path:
    constants = read_constants(model_folder(name))
    write_package(folder, constants, {"float16": ut.graphs(config, constants)["float16"]})
    assert (folder / "weights.bin").read_bytes() == (model_folder(name) / "weights.bin").read_bytes()
    return folder


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package("ut-lm-en", package_config(model_folder("ut-lm-en")), tmp_path_factory.mktemp("float16") / "lm")


@pytest.fixture(scope="module")
def translation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package("ut-mt-ende", translation_config(model_folder("ut-mt-ende")), tmp_path_factory.mktemp("float16") / "mt")


def place(lengths: list[int], seed: int) -> tuple[list[list[int]], int]:
    """Slots in any order for each lane, and how many there are."""
    slots = np.random.default_rng(seed).permutation(sum(lengths) + 7).tolist()
    ends = np.cumsum([0, *lengths])
    return [slots[a:b] for a, b in zip(ends, ends[1:], strict=False)], len(slots)


def test_scoring(language: Path) -> None:
    graphs, model = Graphs(language), reference_model(model_folder("ut-lm-en"))
    texts = [case["ids"][:160] for case in golden(model_folder("ut-lm-en"))]
    budgets = [Limits(), Limits(max_steps=3), Limits(min_steps=4), Limits(threshold=0.7), Limits(max_steps=5, min_steps=5)]
    limits = [budgets[i % 5] if i < 5 or i > 8 else Limits() for i in range(len(texts))]
    slots, count = place([len(ids) for ids in texts], 1)
    bos = model.config["bos"]
    lanes = [Lane([bos, *ids[:-1]], at, own) for ids, at, own in zip(texts, slots, limits, strict=True)]
    pools = Pools(count, count, model.config["d_model"])
    half = len(lanes) // 2
    history = ponder(graphs, pools, lanes, "step", True, {0: list(range(half)), 2: list(range(half, len(lanes)))})
    assert max(renewed for _, renewed, _ in history) > 0
    differ = total = 0
    for i, (lane, ids) in enumerate(zip(lanes, texts, strict=True)):
        budget = model.budget(max_steps=lane.limits.max_steps, min_steps=lane.limits.min_steps, threshold=lane.limits.threshold)
        [(logprobs, want)] = model.score([ids], budget)
        have = score(graphs, pools, lane, ids, k=5 if i % 2 else 0)
        same = have["depth"] == want.depth.numpy()
        differ, total = differ + int((~same).sum()), total + len(ids)
        np.testing.assert_allclose(have["logprob"], logprobs.numpy()[np.arange(len(ids)), ids], atol=LOGPROB_MAX, rtol=0)
        np.testing.assert_allclose(have["remainder"][same], want.remainder.numpy()[same], atol=LOGPROB_MAX, rtol=0)
        if i % 2:
            best = logprobs.topk(5)
            np.testing.assert_allclose(have["top_logprobs"], best.values.numpy(), atol=LOGPROB_MAX, rtol=0)
            assert (have["top_ids"][:, 0] == best.indices.numpy()[:, 0]).mean() > 0.98
    assert differ <= (1 - DEPTH_EQUAL) * total, f"{differ} of {total} depths differ"

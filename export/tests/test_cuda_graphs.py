"""The float16 graphs against PyTorch on the same weights: lanes of unlike lengths and budgets, some entering later, rows of padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import universal_transformer_onnx as ut
from export import read_constants, write_package
from graph_loop import Graphs, Hypothesis, Lane, Limits, Pools, decode, ponder, remember, score
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


def test_translation(translation: Path) -> None:
    """Encoder, memory and decoder along the golden translations, which PyTorch computed on these weights."""
    graphs, cases = Graphs(translation), golden(model_folder("ut-mt-ende"))
    config = translation_config(model_folder("ut-mt-ende"))
    d, max_steps = config["d_model"], config["max_steps"]
    lengths = [len(case["source_ids"]) for case in cases]
    slots, count = place(lengths, 2)
    lanes = [Lane(case["source_ids"], at, Limits(max_steps=max_steps)) for case, at in zip(cases, slots, strict=True)]
    pools = Pools(count, count, d)
    ponder(graphs, pools, lanes, "encoder_step", False, {0: list(range(5)), 1: list(range(5, len(lanes)))})
    places, memory_rows = place(lengths, 3)
    memory = {name: np.full((memory_rows + 1, d), 7, np.float16) for name in ("memory_keys", "memory_values")}
    encoder_depths = remember(graphs, pools, lanes, memory, places)
    differ = sum(a != b for case, have in zip(cases, encoder_depths, strict=True) for a, b in zip(case["encoder_depth"], have, strict=True))
    assert differ <= (1 - DEPTH_EQUAL) * sum(lengths)

    hypotheses = [Hypothesis([config["bos"], *case["ids"][:-1]], at) for case, at in zip(cases, places, strict=True)]
    decoder = Pools(2 * len(cases), max_steps * sum(len(case["ids"]) for case in cases), d)
    results = decode(graphs, decoder, memory, hypotheses, Limits(max_steps=max_steps), k=4)
    differ = 0
    for case, hypothesis, (best, ids) in zip(cases, hypotheses, results, strict=True):
        assert ids[:, 0].tolist() == case["ids"]
        assert len(set(ids[0].tolist())) == 4 and (np.diff(best, axis=1) <= 0).all()
        np.testing.assert_allclose(best[:, 0], case["logprobs"], atol=LOGPROB_MAX, rtol=0)
        differ += sum(a != b for a, b in zip(case["decoder_depth"], hypothesis.depths, strict=True))
    assert differ <= (1 - DEPTH_EQUAL) * sum(len(case["ids"]) for case in cases)


@pytest.mark.parametrize("model", ["language", "translation"])
def test_weights_are_widened_once(model: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """When a session is made, not at every run: nothing is computed from constants alone, int8 is left only where rows are looked up."""
    for path in sorted(request.getfixturevalue(model).glob("*.float16.onnx")):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / path.name)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(tmp_path / path.name, load_external_data=False).graph
        constants = {init.name for init in graph.initializer}
        assert not [node.op_type for node in graph.node if node.input and set(node.input) <= constants], path.name
        narrow = {init.name for init in graph.initializer if init.data_type == onnx.TensorProto.INT8}
        looks_up = path.name.startswith(("begin", "decoder_advance", "decoder_settle"))
        assert narrow == ({"emb"} if looks_up else set()), path.name

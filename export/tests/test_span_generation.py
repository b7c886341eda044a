"""Greedy continuation by a served model with attention spans against PyTorch, which computes the published equations."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

import adaptive_span
import adaptive_span_onnx as span_onnx
from export import START_BYTE, read_constants
from harness import MAIN, ROOT, Server

CHECKPOINT = ROOT / "export" / "train" / "checkpoints" / "span-lm-bytes.int8.safetensors"
MODEL = "span-lm-bytes"
PROMPTS = (b"", b"a", b"The quick brown fox", b"It was the best of times, it was the worst of times. " * 6)
NEW_TOKENS = 12
TIE = 1e-3


def assert_greedy(model: adaptive_span.SpanModel, prompt: bytes, text: str, logprobs: list[float]) -> None:
    """Each byte is the best one after those before it: by induction the text is what recomputing it byte by byte gives."""
    said = text.encode()
    predicted = model.logprobs(torch.tensor([START_BYTE, *prompt, *said[:-1]]))[len(prompt) :]
    best = predicted.topk(2)
    assert float((best.values[:, 0] - best.values[:, 1]).min()) > TIE, "a tie: take another prompt"
    assert bytes(best.indices[:, 0].tolist()) == said
    assert logprobs == pytest.approx(best.values[:, 0].tolist(), abs=1e-4)


@pytest.mark.skipif(not MAIN.exists(), reason="no dist: run npm run build")
def test_greedy_bytes_are_those_of_pytorch(tmp_path: Path) -> None:
    package = tmp_path / MODEL
    subprocess.run([sys.executable, ROOT / "export" / "export.py", CHECKPOINT, package], check=True)
    shape, weights = adaptive_span.load_checkpoint(CHECKPOINT)
    model = adaptive_span.SpanModel(shape, span_onnx.reference_weights(shape, weights, read_constants(package)))
    body = {"model": MODEL, "prompt": [p.decode() for p in PROMPTS], "temperature": 0, "max_tokens": NEW_TOKENS, "logprobs": 1}
    with Server("float32", MODEL, "--models", str(tmp_path)) as server:
        request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            choices = json.load(reply)["choices"]
    for prompt, choice in zip(PROMPTS, choices, strict=True):
        assert len(choice["text"].encode()) == NEW_TOKENS
        assert_greedy(model, prompt, choice["text"], choice["logprobs"]["token_logprobs"])

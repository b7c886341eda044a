"""The functions of a whole layer with attention spans, alone, against plain loops: units with windows of their own, and the zero row
before a text."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import adaptive_span_onnx as span_onnx
import functions
import span_layer
from test_functions import EPSILON, call, normal

UNITS, M, D_HEAD, S_MAX, RAMP = 3, 5, 4, 40, 8.0
HEADS, SPANS = [1, 2, 1], [6, 16, 33]
D = D_HEAD * sum(HEADS)


def pools() -> dict[str, Tensor]:
    """Pools and windows of each group; the first unit's window begins before its text."""
    out = {}
    for j, (heads, s) in enumerate(zip(HEADS, SPANS, strict=True)):
        rows = 1 + UNITS * (s + M)
        for name, seed in (("keys", 10 + j), ("values", 20 + j)):
            out[f"{name}{j}"] = normal(rows, heads * D_HEAD, seed=seed)
            out[f"{name}{j}"][0] = 0
        window = 1 + torch.randperm(UNITS * (s + M), generator=torch.Generator().manual_seed(j)).reshape(UNITS, s + M)
        window[0, : s // 2] = 0
        out[f"window{j}"] = window.int()
    return out


def test_write_spans() -> None:
    inputs = {"qkv": normal(UNITS * M, 3 * D)} | pools()
    outputs = {f"{name}_out{j}": f"float[pool{j}, columns{j}]" for j in range(3) for name in ("keys", "values")}
    written = dict(zip(outputs, call(span_layer.write_spans(3, D, D_HEAD), inputs, outputs, f"<heads = {HEADS}>"), strict=True))
    _, keys, values = inputs["qkv"].split(D, 1)
    first = 0
    for j, heads in enumerate(HEADS):
        for name, rows in (("keys", keys), ("values", values)):
            want = inputs[f"{name}{j}"].clone()
            want[inputs[f"window{j}"][:, SPANS[j] :].flatten().long()] = rows[:, first : first + heads * D_HEAD]
            torch.testing.assert_close(written[f"{name}_out{j}"], want)
        first += heads * D_HEAD


@pytest.mark.parametrize("dynamic", [False, True])
def test_span_heads(dynamic: bool) -> None:
    z = torch.rand(*((UNITS * M,) if dynamic else ()), sum(HEADS), generator=torch.Generator().manual_seed(1)) * S_MAX
    inputs = {"qkv": normal(UNITS * M, 3 * D), "z": z, "cap": torch.tensor([1e9, 3.5, 1e9]).reshape(UNITS, 1, 1, 1)}
    inputs |= {"pe": normal(D_HEAD, S_MAX, seed=2), "distance": torch.arange(S_MAX - 1, -1, -1).float()} | pools()
    called = (functions.normalize(), span_onnx.span_mask(), span_onnx.span_attention(D_HEAD))
    function = span_layer.span_heads(3, D, D_HEAD, dynamic)
    [o] = call(function, inputs, {"o": "float[r, d]"}, f"<heads = {HEADS}, ramp = {RAMP}>", called)
    for row in range(UNITS * M):
        unit, i, head = row // M, row % M, 0
        for j, (heads, s) in enumerate(zip(HEADS, SPANS, strict=True)):
            for h in range(heads):
                at = inputs[f"window{j}"][unit, i : i + s].long()
                columns = slice(h * D_HEAD, (h + 1) * D_HEAD)
                q = inputs["qkv"][row, head * D_HEAD : (head + 1) * D_HEAD]
                reach = min((z[row] if dynamic else z)[head].item(), inputs["cap"][unit].item()) + RAMP
                mask = torch.tensor([max(0.0, min(1.0, (reach - (s - 1 - x)) / RAMP)) for x in range(s)])
                scores = (inputs[f"keys{j}"][at, columns] + inputs["pe"][:, S_MAX - s :].T) @ q
                weights = mask * (scores - scores.max()).exp()
                want = weights / weights.sum() @ inputs[f"values{j}"][at, columns]
                torch.testing.assert_close(o[row, head * D_HEAD : (head + 1) * D_HEAD], want, atol=1e-5, rtol=1e-4)
                head += 1


def test_add_normalize_and_relu() -> None:
    x, y, bias, gain, shift = normal(7, D), normal(7, D, seed=1), normal(D, seed=2), normal(D, seed=3), normal(D, seed=4)
    inputs = {"x": x, "y": y, "bias": bias, "gain": gain, "shift": shift}
    [out] = call(span_layer.add_normalize(), inputs, {"out": "float[r, d]"}, f"<epsilon = {EPSILON}>", (functions.normalize(),))
    torch.testing.assert_close(out, F.layer_norm(x + y + bias, (D,), gain, shift, EPSILON), atol=1e-5, rtol=1e-4)
    [out] = call(span_layer.add_relu(), {"x": x, "bias": bias}, {"y": "float[r, d]"})
    torch.testing.assert_close(out, (x + bias).relu())

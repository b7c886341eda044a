"""Each ai.adaptive function alone, in ONNX Runtime, against a few lines of PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import parser
from torch import Tensor

import functions
from harness import ROOT
from quantise import quantise

EPSILON = 1e-5
ONNX_TYPES = {
    torch.float32: "float",
    torch.float16: "float16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.bool: "bool",
}


def call(
    function: str, inputs: dict[str, Tensor], outputs: dict[str, str], attributes: str = "", called: tuple[str, ...] = ()
) -> list[Tensor]:
    """Runs one function as a whole model. `outputs`: name to type and shape, such as "float[r, d]". `called`: functions that it calls."""
    shape = lambda t: f"[{', '.join(map(str, t.shape))}]" if t.dim() > 0 else ""
    [proto] = functions.parse(function)
    signature = ", ".join(f"{ONNX_TYPES[t.dtype]}{shape(t)} {name}" for name, t in inputs.items())
    results = ", ".join(f"{kind} {name}" for name, kind in outputs.items())
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {functions.OPSET}, "{functions.DOMAIN}" : 1, "com.microsoft" : 1]>'
        f"one ({signature}) => ({results}) {{"
        f" {', '.join(outputs)} = {functions.DOMAIN}.{proto.name} {attributes} ({', '.join(inputs)}) }}"
    )
    model.functions.extend([proto, *(f for f in functions.parse(*called) if f.name != proto.name)])
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(np.asarray(a)) for a in session.run(None, {name: t.numpy() for name, t in inputs.items()})]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows() -> Tensor:
    """Ordinary rows and the awkward ones: zero, constant, one sign, huge, tiny, one outlier."""
    x = normal(12, 64)
    x[1] = 0
    x[2] = 3.5
    x[3] = x[3].abs()
    x[4] = -x[4].abs()
    x[5] *= 1e6
    x[6] *= 1e-6
    x[7, 9] = 500
    return x


def test_coordinate_embedding() -> None:
    state, positions, steps = normal(5, 8), normal(10, 8, seed=1), normal(4, 8, seed=2)
    position, step = torch.tensor([0, 9, 3, 3, 1], dtype=torch.int32), torch.tensor([1, 3, 2, 1, 0], dtype=torch.int32)
    inputs = {"state": state, "position": position, "step": step, "positions": positions, "steps": steps}
    [x] = call(functions.coordinate_embedding(), inputs, {"x": "float[r, d]"})
    torch.testing.assert_close(x, state + positions[position] + steps[step], atol=1e-6, rtol=1e-6)


def test_normalize() -> None:
    x = rows()
    outputs = {"centred": "float[r, d]", "inverse": "float[r, 1]"}
    centred, inverse = call(functions.normalize(), {"x": x}, outputs, f"<epsilon = {EPSILON}>")
    torch.testing.assert_close(centred * inverse, F.layer_norm(x, (64,), eps=EPSILON), atol=1e-5, rtol=1e-5)


def test_row_quantize() -> None:
    x = rows()
    outputs = {"q": "uint8[r, d]", "scale": "float[r, 1]"}
    q, scale = call(functions.row_quantize(), {"x": x}, outputs)
    peak = x.abs().amax(1, keepdim=True).clamp(min=1e-20)
    assert torch.equal(q, (128 + (x * (127 / peak)).round()).to(torch.uint8))
    assert torch.equal(scale, peak / 127)
    assert int(q.min()) >= 1 and (q[1] == 128).all()
    assert ((q.double() - 128) * scale.double() - x).abs().le(scale.double() * 0.50001).all()
    for i in range(len(x)):
        alone, scale_alone = call(functions.row_quantize(), {"x": x[i : i + 1]}, outputs)
        assert torch.equal(alone[0], q[i]) and torch.equal(scale_alone[0], scale[i])


def test_row_quantize_relu() -> None:
    x = rows()
    q, scale = call(functions.row_quantize_relu(), {"x": x}, {"q": "uint8[r, d]", "scale": "float[r, 1]"})
    peak = x.amax(1, keepdim=True).clamp(min=1e-20)
    assert torch.equal(q, (x.relu() * (255 / peak)).round().to(torch.uint8))
    assert torch.equal(scale, peak / 255)
    assert (q[1] == 0).all() and (q[4] == 0).all()  # a row without anything above zero
    assert (q.double() * scale.double() - x.relu()).abs().le(scale.double() * 0.50001).all()


@pytest.mark.parametrize("zero", [128, 0])
@pytest.mark.parametrize("kind", ["random", "extreme"])
def test_row_quantized_matmul(zero: int, kind: str) -> None:
    """Exact, also where neighbouring products are as large as they can be: see quantise.py."""
    k, n = 2048, 48
    weight = normal(n, k, seed=3) if kind == "random" else torch.full((n, k), 0.7) * normal(n, 1, seed=3).sign()
    w, w_scale = quantise(weight)
    q = torch.randint(0, 256, (7, k), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    if kind == "extreme":
        q[0], q[1] = 255, 0
    scale = normal(7, 1, seed=5).abs()
    inputs = {"q": q, "scale": scale, "zero": torch.tensor(zero, dtype=torch.uint8), "w": w.T.contiguous(), "w_scale": w_scale}
    [y] = call(functions.row_quantized_matmul(), inputs, {"y": "float[r, n]"})
    exact = (q.long() - zero) @ w.T.long()
    torch.testing.assert_close(y, (exact.double() * w_scale * scale).float(), atol=0, rtol=4e-7)


def test_dequantized_matmul() -> None:
    w, w_scale = quantise(normal(24, 64, seed=1))
    x = normal(5, 64)
    [y] = call(functions.dequantized_matmul(), {"x": x, "w": w.T.contiguous(), "w_scale": w_scale}, {"y": "float[r, n]"})
    torch.testing.assert_close(y, x @ (w.float() * w_scale[:, None]).T, atol=1e-5, rtol=1e-5)


def test_quantized_embedding() -> None:
    w, w_scale = quantise(normal(20, 16, seed=1))
    ids = torch.tensor([0, 19, 7, 7], dtype=torch.int32)
    [e] = call(functions.quantized_embedding(), {"ids": ids, "w": w, "w_scale": w_scale}, {"e": "float[r, d]"}, "<factor = 4.0>")
    torch.testing.assert_close(e, 4 * (w.float() * w_scale[:, None])[ids], atol=0, rtol=1e-6)


def test_halting_probability() -> None:
    x, w, b = rows(), normal(1, 64, seed=1), torch.tensor([0.3])
    mean = x.mean(1, keepdim=True)
    inverse = 1 / (x.var(1, correction=0, keepdim=True) + EPSILON).sqrt()
    outputs = {"p": "float[r, 1]"}
    [p] = call(functions.halting_probability(), {"centred": x - mean, "inverse": inverse, "w": w, "b": b}, outputs)
    torch.testing.assert_close(p, torch.sigmoid(F.layer_norm(x, (64,), eps=EPSILON) @ w.T + b), atol=1e-6, rtol=1e-5)


def halting_reference(p: Tensor, H: Tensor, threshold: Tensor, last: Tensor, hold: Tensor) -> tuple[Tensor, ...]:
    """The lines of Stack.run, for rows that run."""
    p = torch.where(hold, torch.minimum(p, threshold - H), p)
    halted = ((H + p > threshold) & ~hold) | last
    r = torch.where(halted, 1 - H, 0.0)
    weight = torch.where(halted, r, p)
    return weight, torch.where(halted, 1.0, H + p), halted, r


HALTING_EDGES = [
    # p, H, threshold, last, hold
    (0.3, 0.2, 0.99, False, False),  # goes on
    (0.9, 0.2, 0.99, False, False),  # passes
    (0.5, 0.5, 1.0, False, False),  # meets the threshold exactly: goes on
    (0.25, 0.25, 0.5, False, False),
    (0.3, 0.2, 0.99, True, False),  # stopped at the last step
    (0.9, 0.2, 0.99, True, False),
    (0.9, 0.2, 0.99, False, True),  # held: clipped to the room that is left
    (0.1, 0.2, 0.99, False, True),  # held, with room
    (0.5, 0.99, 0.99, False, True),  # held, no room left
    (0.9, 0.99, 0.99, False, False),  # the first free step after being held
    (1.0, 0.0, 1e-6, False, False),
    (0.0, 0.0, 0.99, True, False),  # nothing yet: all of the weight is remainder
    (1.0, 0.0, 0.99, True, True),
]


def test_halting_update() -> None:
    edges = [torch.tensor(column)[:, None] for column in zip(*HALTING_EDGES, strict=True)]
    generator = torch.Generator().manual_seed(6)
    count = 200
    p, threshold = (torch.rand(count, 1, generator=generator) for _ in range(2))
    H = threshold * torch.rand(count, 1, generator=generator)
    last, hold = (torch.rand(count, 1, generator=generator) < 0.3 for _ in range(2))
    inputs = [torch.cat(pair) for pair in zip(edges, (p, H, threshold, last, hold), strict=True)]
    outputs = {"weight": "float[a, 1]", "sum_out": "float[a, 1]", "halted": "bool[a, 1]", "remainder": "float[a, 1]"}
    have = call(functions.halting_update(), dict(zip(("p", "sum", "threshold", "last", "hold"), inputs, strict=True)), outputs)
    for name, a, b in zip(outputs, have, halting_reference(*inputs), strict=True):
        assert torch.equal(a, b), name


def test_every_function_of_the_packages_is_tested() -> None:
    """A function that is exported and not in this folder's tests would go unseen."""
    folder = Path(__file__).parent
    # Those of attention spans stand alone in the tests of their family.
    tests = [*folder.glob("test_functions*.py"), folder / "test_adaptive_span.py", folder / "test_span_layer.py"]
    tested = " ".join(path.read_text() for path in tests)
    used = {f.name for path in ROOT.glob("models/*/*.onnx") for f in onnx.load(path, load_external_data=False).functions}
    assert used
    for name in used:
        # The number of a layer's groups is no part of what a function means.
        builder = re.sub(r"(?<!^)(?=[A-Z])", "_", name.rstrip("0123456789")).lower().replace("mat_mul", "matmul")
        assert re.search(rf"(functions|cuda_seats|onnx_span|span_layer)\.{builder}\(", tested), name  # also cuda_functions.

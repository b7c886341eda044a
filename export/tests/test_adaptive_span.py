"""Adaptive span: checkpoints of the published layout, and the block graph against the authors' equations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file

import adaptive_span as span
import adaptive_span_onnx as onnx_span
import export

SMALL = span.SpanShape(layers=2, d_model=32, heads=4, d_ff=48, span_max=64, vocab=40, dynamic=False, ramp=32)


def random_weights(s: span.SpanShape, seed: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = {}
    for name, dims in span.expected(s).items():
        if name.endswith("current_val"):
            w[name] = torch.rand(dims, generator=generator)
        elif "norm" in name and name.endswith("weight"):
            w[name] = 1 + 0.1 * torch.randn(dims, generator=generator)
        else:
            w[name] = torch.randn(dims, generator=generator) * (0.3 if len(dims) > 1 else 0.1)
    return w


def authors_file(path: Path, w: dict[str, torch.Tensor]) -> Path:
    model = {f"module.{k}": v for k, v in w.items()}
    torch.save({"iter_no": 3, "model": model, "logger": {"loss": [1.0]}, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize(
    "layers, d, heads, ff, s_max",
    [(12, 512, 8, 2048, 8192), (24, 768, 8, 4096, 8192), (8, 256, 4, 1024, 1024)],
    ids=["enwik8", "large", "small"],
)
def test_published_shapes_are_found_from_the_tensors(tmp_path, layers, d, heads, ff, s_max):
    want = span.SpanShape(layers, d, heads, ff, s_max, 205, False)
    # One block of random numbers, cut up: 209 M of them would take seconds.
    noise = torch.randn(max(math.prod(dims) for dims in span.expected(want).values()))
    w = {k: noise[: math.prod(dims)].view(dims) for k, dims in span.expected(want).items()}
    w = {k: v.clamp(0, 1) if k.endswith("current_val") else v for k, v in w.items()}
    path = tmp_path / "model.safetensors"
    save_file({k: v.half().clone() for k, v in w.items()}, path)
    shape, weights = span.load_checkpoint(path)
    assert shape == want
    assert weights.keys() == span.expected(want).keys()


def test_the_authors_pt_and_safetensors_of_the_same_names_are_the_same(tmp_path):
    w = random_weights(SMALL)
    a = span.load_checkpoint(authors_file(tmp_path / "a.pt", w))
    save_file(w, tmp_path / "b.safetensors")
    b = span.load_checkpoint(tmp_path / "b.safetensors")
    assert a[0] == b[0] == SMALL
    assert all(torch.equal(a[1][k], b[1][k]) for k in w)


def spoilt(name: str, change) -> dict[str, torch.Tensor]:
    w = random_weights(SMALL)
    if change is None:
        del w[name]
    else:
        w[name] = change(w[name])
    return w


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("layers.1.attn.proj_val.weight", None, "no tensor layers.1.attn.proj_val.weight"),
        ("layers.0.ff.fc2.weight", lambda t: t[:, :-1], r"layers.0.ff.fc2.weight is \[32, 47\], \[32, 48\] is expected"),
        ("out_emb.bias", lambda t: t * float("nan"), "out_emb.bias holds NaN or infinity"),
        (f"{span.MASK.format(1)}.current_val", lambda t: t + 1, "current_val is outside 0..1"),
        ("key_pe", lambda t: t[0], "key_pe has 2 dimensions, 3 are expected"),
    ],
)
def test_a_bad_checkpoint_is_refused_with_the_tensors_name(tmp_path, name, change, says):
    with pytest.raises(ValueError, match=says):
        span.load_checkpoint(authors_file(tmp_path / "bad.pt", spoilt(name, change)))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/ponder-pickle-ran"),))


def test_a_pickle_that_wants_to_run_code_does_not(tmp_path):
    torch.save({"model": {"module.key_pe": torch.zeros(1, 8, 64), "x": Evil()}}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="evil.pt: not a file of tensors"):
        span.load_checkpoint(tmp_path / "evil.pt")
    assert not Path("/tmp/ponder-pickle-ran").exists()


@pytest.mark.parametrize("name", ["notes.txt", "notes.pt", "notes.safetensors"])
def test_a_file_that_holds_no_tensors_is_refused_in_our_own_words(tmp_path, name):
    (tmp_path / name).write_text("Things to do, none of them about tensors.\n")
    with pytest.raises(ValueError) as refused:
        span.load_checkpoint(tmp_path / name)
    assert str(refused.value).startswith(f"{name}: not a file of tensors: save plain tensors")
    assert "weights_only" not in str(refused.value)


def run_graph(
    folder: Path, s: span.SpanShape, w, precision: str, texts: list[list[int]], block: int, cap: float = 1e9, reach: int | None = None
) -> list[np.ndarray]:
    """Log-probabilities of the texts' tokens after a start token 0, in blocks, all texts in one batch. `reach`: windows have at most so
    many keys before the block."""
    constants = onnx_span.initialisers(s, w)
    places = export.write_weights(folder / "weights.bin", constants)
    model = onnx_span.graphs(s, w, constants)[precision]["step"]
    export.place(model, places, "weights.bin")
    (folder / "step.onnx").write_bytes(model.SerializeToString())
    session = ort.InferenceSession(folder / "step.onnx", providers=["CPUExecutionProvider"])
    plan = onnx_span.plan(s, w)
    u, length = len(texts), max(map(len, texts))
    pools = {}
    for i, groups in enumerate(plan):
        for j, g in enumerate(groups):
            for name in ("keys", "values"):
                pools[f"{name}{i}_{j}"] = np.zeros((1 + u * (g["span"] + block), len(g["heads"]) * s.d_head), np.float32)
    ids = np.zeros((u, length + block), np.int32)
    targets = np.zeros_like(ids)
    for b, text in enumerate(texts):
        targets[b, : len(text)] = text
        ids[b, 1 : len(text) + 1] = text
    out = []
    names = [o.name for o in session.get_outputs()]
    for start in range(0, length, block):
        feeds = {"ids": ids[:, start : start + block], "targets": targets[:, start : start + block], "k": np.array([1])}
        feeds["cap"] = np.full((u, 1, 1, 1), cap, np.float32)
        for width in {g["span"] for groups in plan for g in groups}:
            at = np.arange(start - min(width, reach or width), start + block)[None, :]
            ring = 1 + np.arange(u)[:, None] * (width + block) + at % (width + block)
            feeds[f"window{width}"] = np.where(at < 0, 0, ring).astype(np.int32)
        result = dict(zip(names, session.run(None, feeds | pools), strict=True))
        pools = {k: result[f"{k}_out"] for k in pools}
        out.append(result["logprob"])
    joined = np.concatenate(out, 1)
    return [joined[b, : len(text)] for b, text in enumerate(texts)]


def reference(s: span.SpanShape, w, texts: list[list[int]], cap: float | None = None) -> list[np.ndarray]:
    weights = onnx_span.reference_weights(s, w, onnx_span.initialisers(s, w))
    model = span.SpanModel(s, weights, cap)
    out = []
    for text in texts:
        logprobs = model.logprobs(torch.tensor([0, *text[:-1]]), block=17)
        out.append(logprobs[torch.arange(len(text)), torch.tensor(text)].numpy())
    return out


TEXTS = [np.random.default_rng(i).integers(0, 40, n).tolist() for i, n in enumerate((200, 131, 7))]
DYNAMIC = span.SpanShape(layers=2, d_model=32, heads=4, d_ff=48, span_max=64, vocab=40, dynamic=True, ramp=32)


@pytest.mark.parametrize("shape", [SMALL, DYNAMIC], ids=["adaptive", "dynamic"])
@pytest.mark.parametrize("block", [16, 48])
def test_blocks_of_truncated_heads_equal_the_full_width_equations(tmp_path, shape, block):
    w = random_weights(shape)
    for got, want in zip(run_graph(tmp_path, shape, w, "float32", TEXTS, block), reference(shape, w, TEXTS), strict=True):
        assert np.abs(got - want).max() < 1e-4


def test_a_cap_is_the_same_model_with_clipped_spans(tmp_path):
    w = random_weights(SMALL)
    for got, want in zip(run_graph(tmp_path, SMALL, w, "float32", TEXTS, 32, cap=5), reference(SMALL, w, TEXTS, cap=5), strict=True):
        assert np.abs(got - want).max() < 1e-4


def test_windows_as_short_as_a_cap_allows_change_nothing(tmp_path):
    for shape in (SMALL, DYNAMIC):
        w = random_weights(shape)
        wide = run_graph(tmp_path, shape, w, "float32", TEXTS, 32, cap=5)
        for got, want in zip(run_graph(tmp_path, shape, w, "float32", TEXTS, 32, cap=5, reach=48), wide, strict=True):
            assert np.abs(got - want).max() < 1e-5


def test_int8_does_not_depend_on_the_batch(tmp_path):
    w = random_weights(SMALL)
    together = run_graph(tmp_path, SMALL, w, "int8", TEXTS, 32)
    for text, got in zip(TEXTS, together, strict=True):
        # Alone, but in blocks of the same length.
        assert np.array_equal(run_graph(tmp_path, SMALL, w, "int8", [text], 32)[0], got)


def test_a_head_is_never_cut_shorter_than_its_span():
    w = random_weights(SMALL)
    for keys, groups in zip(span.spans(SMALL, w), onnx_span.plan(SMALL, w), strict=True):
        assert sorted(h for g in groups for h in g["heads"]) == list(range(SMALL.heads))
        assert all(keys[h] <= g["span"] for g in groups for h in g["heads"])


def test_a_vocabulary_file_says_which_bytes_the_ids_stand_for(tmp_path):
    bytes_of_ids = [10, 32, *range(97, 123), 195, 159, *range(48, 58)]  # 40, in no order of their own
    checkpoint = tmp_path / "tiny.safetensors"
    save_file(random_weights(SMALL), checkpoint)
    (tmp_path / "tiny.json").write_text('{"language": "en", "provenance": {"data": "none"}, "quality": {}}')
    vocabulary = tmp_path / "bytes.txt"
    vocabulary.write_text("".join(f"{b}\n" for b in bytes_of_ids))
    export.export_span(checkpoint, tmp_path / "tiny", vocabulary, golden_texts=("stra\u00dfe 42", "Not in it"))
    written = json.loads((tmp_path / "tiny" / "vocabulary.json").read_text())
    [golden] = json.loads((tmp_path / "tiny" / "golden.json").read_text())
    assert written == bytes_of_ids
    assert [bytes_of_ids[i] for i in golden["ids"]] == list("stra\u00dfe 42".encode())
    assert json.loads((tmp_path / "tiny" / "manifest.json").read_text())["tokens"] == {"bos": 0}


@pytest.mark.parametrize(
    "lines, says",
    [
        (None, "has 40 ids, not all 256 bytes: name the file"),
        ("1\n2\n", "has 2 bytes where the checkpoint has 40 ids"),
        ("1\n1\n", "no list of different bytes"),
        ("256\n", "no list of different bytes"),
        ("a\n", "no list of different bytes"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path, lines, says):
    path = None
    if lines is not None:
        path = tmp_path / "bytes.txt"
        path.write_text(lines)
    with pytest.raises(ValueError, match=says):
        export.read_vocabulary(path, 40)


def attention_graph(
    folder: Path, s: span.SpanShape, groups: list[dict], pe: torch.Tensor, z: torch.Tensor, block: int
) -> ort.InferenceSession:
    """One layer's mask and attention, for these groups of its heads."""
    constants = {"pe": pe, "distance": torch.arange(s.span_max - 1, -1, -1).float()}
    inputs, outputs, lines = ["float[1, 1, 1, 1] cap"], [], ["axis1 = Constant <value_ints = [1]> ()"]
    lines.append(f"end = Constant <value_ints = [{s.span_max}]> ()")
    for j, g in enumerate(groups):
        h, width = len(g["heads"]), g["span"]
        constants[f"z.{j}"] = z[g["heads"]].reshape(1, h, 1, 1)
        inputs += [f"float[1, {h}, {block}, {s.d_head}] q{j}", f"int32[1, {width + block}] window{j}"]
        inputs += [f"float[rows{j}, {h * s.d_head}] {name}{j}" for name in ("k", "v")]
        outputs.append(f"float[1, {block}, {h * s.d_head}] o{j}")
        lines += [
            f"heads{j} = Constant <value = int32[1, {h}, 1] {{{', '.join(map(str, range(h)))}}}> ()",
            f"far{j} = Constant <value_ints = [{s.span_max - width}]> ()",
            f'pe{j} = Slice ("pe", far{j}, end, axis1)',
            f'distance{j} = Slice ("distance", far{j}, end)',
            f'bias{j} = ai.adaptive.SpanMask <ramp = {float(s.ramp)}> ("z.{j}", cap, distance{j})',
            f"o{j} = ai.adaptive.SpanAttention (q{j}, k{j}, v{j}, window{j}, heads{j}, pe{j}, bias{j})",
        ]
    text = f"attention ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {chr(10).join(lines)} }}"
    model = onnx_span.build(text, constants, (onnx_span.span_mask(), onnx_span.span_attention(s.d_head)))
    export.place(model, export.write_weights(folder / "weights.bin", constants), "weights.bin")
    (folder / "attention.onnx").write_bytes(model.SerializeToString())
    return ort.InferenceSession(folder / "attention.onnx", providers=["CPUExecutionProvider"])


def test_truncating_each_head_to_its_span_changes_attention_by_less_than_1e_6(tmp_path):
    s = span.SpanShape(layers=1, d_model=256, heads=4, d_ff=64, span_max=1024, vocab=256, dynamic=False)
    block, rng = 64, np.random.default_rng(11)
    random = lambda *dims: rng.standard_normal(dims, dtype=np.float32)  # noqa: E731
    z = torch.tensor([0.0, 40.3, 265.0, 700.7])
    keys = [min(s.span_max, math.ceil(x + s.ramp)) for x in z.tolist()]
    q, k, v = random(1, 4, block, s.d_head) / 8, random(s.span_max + block, 4, s.d_head), random(s.span_max + block, 4, s.d_head)
    pe = torch.from_numpy(random(s.d_head, s.span_max))
    results = []
    for groups in (onnx_span.groups_of(s, keys), [{"heads": [0, 1, 2, 3], "span": s.span_max}]):
        session = attention_graph(tmp_path, s, groups, pe, z, block)
        feeds = {"cap": np.full((1, 1, 1, 1), 1e9, np.float32)}
        for j, g in enumerate(groups):
            rows = g["span"] + block
            feeds |= {f"q{j}": q[:, g["heads"]], f"window{j}": np.arange(rows, dtype=np.int32)[None]}
            feeds |= {f"{name}{j}": x[-rows:, g["heads"]].reshape(rows, -1) for name, x in (("k", k), ("v", v))}
        results.append(np.concatenate(session.run(None, feeds), 2))
    assert len(onnx_span.groups_of(s, keys)) > 1
    assert np.abs(results[0] - results[1]).max() < 1e-6

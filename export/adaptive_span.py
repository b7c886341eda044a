"""Language models whose heads learn how far to look back (Sukhbaatar et al. 2019, arXiv 1905.07799): checkpoints and the reference.

The reference follows the published code: full-width masks, no truncation, a cache of layer INPUTS that starts as zeros and takes
part in the softmax. Everything is float32. Shapes: L tokens, d width, H heads of size d/H, S maximum span, R ramp, V vocabulary.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from quantise import dequantise

RAMP = 32
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class SpanShape:
    """What a checkpoint's tensors say about the model."""

    layers: int
    d_model: int
    heads: int
    d_ff: int
    span_max: int
    vocab: int
    # z per token and head (section 6 of reference/model-families.md) instead of one per head.
    dynamic: bool
    ramp: int = RAMP

    @property
    def d_head(self) -> int:
        return self.d_model // self.heads


# Not in torch's words: these advise weights_only=False, with which a file runs the code that a stranger put there.
NO_TENSORS = "{}: not a file of tensors: save plain tensors, with torch.save(model.state_dict(), FILE) or as .safetensors"


def load_checkpoint(path: Path) -> tuple[SpanShape, dict[str, Tensor]]:
    """Reads the authors' .pt (tensors beside optimizer and logger, read without running any pickled code) or a safetensors file of the
    same names, `module.` prefix or not, int8 with `<name>.scale` or not. Raises ValueError naming the tensor that is missing or wrong."""
    if path.suffix == ".safetensors":
        try:
            raw = load_file(path)
        except Exception as error:
            raise ValueError(NO_TENSORS.format(path.name)) from error
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises several kinds, all of them meaning: not only tensors
            raise ValueError(NO_TENSORS.format(path.name)) from error
        raw = content.get("model", content) if isinstance(content, dict) else {}
    weights = {}
    for name, tensor in raw.items():
        if name.endswith(".scale") and name.removesuffix(".scale") in raw:
            continue
        scale = raw.get(f"{name}.scale")
        weights[name.removeprefix("module.")] = tensor.float() if scale is None else dequantise(tensor, scale)
    return shape_of(weights), weights


def shape_of(w: dict[str, Tensor]) -> SpanShape:
    def need(name: str, dims: int) -> torch.Size:
        if name not in w:
            raise ValueError(f"the checkpoint has no tensor {name}")
        if w[name].ndim != dims:
            raise ValueError(f"{name} has {w[name].ndim} dimensions, {dims} are expected")
        return w[name].shape

    layers = 1 + max((int(m.group(1)) for m in map(re.compile(r"layers\.(\d+)\.").match, w) if m), default=-1)
    if layers == 0:
        raise ValueError("the checkpoint has no tensor layers.0.attn.proj_query.weight")
    vocab, d = need("in_emb.weight", 2)
    d_ff = need("layers.0.ff.fc1.weight", 2)[0]
    dynamic = "layers.0.attn.attn.dynamic_span.weight" in w
    heads = need("layers.0.attn.attn.dynamic_span.weight", 2)[0] if dynamic else need(f"{MASK.format(0)}.current_val", 3)[0]
    _, d_head, span_max = need("key_pe", 3)
    shape = SpanShape(layers, d, heads, d_ff, span_max, vocab, dynamic)
    for name, dims in expected(shape).items():
        need(name, len(dims))
        if tuple(w[name].shape) != dims:
            raise ValueError(f"{name} is {list(w[name].shape)}, {list(dims)} is expected")
        if not torch.isfinite(w[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")
    if not dynamic:
        for i in range(layers):
            value = w[f"{MASK.format(i)}.current_val"]
            if value.min() < 0 or value.max() > 1:
                raise ValueError(f"{MASK.format(i)}.current_val is outside 0..1 (spans are a share of the maximum)")
    return shape


MASK = "layers.{}.attn.attn.adaptive_span._mask"


def expected(s: SpanShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the model computes with."""
    d, f = s.d_model, s.d_ff
    out: dict[str, tuple[int, ...]] = {
        "key_pe": (1, s.d_head, s.span_max),
        "in_emb.weight": (s.vocab, d),
        "out_emb.weight": (s.vocab, d),
        "out_emb.bias": (s.vocab,),
    }
    for i in range(s.layers):
        p = f"layers.{i}."
        out |= {f"{p}attn.proj_{name}.weight": (d, d) for name in ("query", "key", "val", "out")}
        out |= {f"{p}{n}.{t}": (d,) for n in ("norm1", "norm2") for t in ("weight", "bias")}
        out |= {f"{p}ff.fc1.weight": (f, d), f"{p}ff.fc1.bias": (f,), f"{p}ff.fc2.weight": (d, f), f"{p}ff.fc2.bias": (d,)}
        if s.dynamic:
            out |= {f"{p}attn.attn.dynamic_span.weight": (s.heads, d), f"{p}attn.attn.dynamic_span.bias": (s.heads,)}
        else:
            out |= {f"{MASK.format(i)}.current_val": (s.heads, 1, 1)}
    return out


def spans(s: SpanShape, w: dict[str, Tensor]) -> list[list[int]]:
    """Keys of each layer and head whose weight can be above 0: min(S, ceil(z S + R)), or S where z depends on the token."""
    if s.dynamic:
        return [[s.span_max] * s.heads for _ in range(s.layers)]
    z = [w[f"{MASK.format(i)}.current_val"].flatten() * s.span_max for i in range(s.layers)]
    return [[min(s.span_max, math.ceil(x + s.ramp)) for x in layer.tolist()] for layer in z]


class SpanModel:
    """The published model, block by block. `span_cap` clips every head's z (in keys): the budget of a request."""

    def __init__(self, shape: SpanShape, weights: dict[str, Tensor], span_cap: float | None = None):
        self.s = shape
        self.w = weights
        self.span_cap = span_cap

    def z(self, layer: int, x: Tensor) -> Tensor:
        """The span of each head in keys, ramp excluded: [H, L, 1] for x [L, d]."""
        s = self.s
        if s.dynamic:
            p = f"layers.{layer}.attn.attn.dynamic_span"
            z = s.span_max * torch.sigmoid(F.linear(x, self.w[f"{p}.weight"], self.w[f"{p}.bias"]))
            z = z.T[:, :, None]
        else:
            z = (self.w[f"{MASK.format(layer)}.current_val"] * s.span_max).expand(s.heads, len(x), 1)
        return z if self.span_cap is None else z.clamp(max=self.span_cap)

    def attention(self, layer: int, x: Tensor, cache: Tensor) -> Tensor:
        """x [L, d] and the S layer inputs before it -> [L, d]. Softmax over all S keys, then the mask, then the division."""
        s, p = self.s, f"layers.{layer}.attn."
        L, S, H, D = len(x), s.span_max, s.heads, s.d_head
        split = lambda y: y.unflatten(-1, (H, D)).transpose(0, 1)  # noqa: E731
        q = split(F.linear(x, self.w[f"{p}proj_query.weight"]))
        before = torch.cat([cache, x])
        k = split(F.linear(before, self.w[f"{p}proj_key.weight"]))
        v = split(F.linear(before, self.w[f"{p}proj_val.weight"]))
        # Query i sees keys i ... i+S-1 of the S+L: distances S ... 1, never itself.
        at = torch.arange(L)[:, None] + torch.arange(S)[None, :]
        scores = torch.gather(q @ k.transpose(1, 2), 2, at.expand(H, L, S)) + q @ self.w["key_pe"][0]
        weights = F.softmax(scores / math.sqrt(D), -1)
        distance = torch.arange(S - 1, -1, -1)  # minus one, as the published mask counts
        weights = weights * ((s.ramp + self.z(layer, x) - distance) / s.ramp).clamp(0, 1)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-8)
        wide = torch.zeros(H, L, S + L).scatter_(2, at.expand(H, L, S), weights)
        return F.linear((wide @ v).transpose(0, 1).flatten(1), self.w[f"{p}proj_out.weight"])

    @torch.inference_mode()
    def logprobs(self, ids: Tensor, block: int = 256) -> Tensor:
        """ids [L] inputs -> [L, V] log-probabilities of the token after each."""
        s, w = self.s, self.w
        caches = [torch.zeros(s.span_max, s.d_model) for _ in range(s.layers)]
        out = []
        for start in range(0, len(ids), block):
            x = F.embedding(ids[start : start + block], w["in_emb.weight"])
            for i in range(s.layers):
                p = f"layers.{i}."
                norm = lambda y, n: F.layer_norm(y, (s.d_model,), w[f"{p}{n}.weight"], w[f"{p}{n}.bias"], LAYER_NORM_EPS)  # noqa: B023, E731
                attended = self.attention(i, x, caches[i])
                caches[i] = torch.cat([caches[i], x])[-s.span_max :]
                h = norm(x + attended, "norm1")
                f = F.linear(
                    torch.relu(F.linear(h, w[f"{p}ff.fc1.weight"], w[f"{p}ff.fc1.bias"])), w[f"{p}ff.fc2.weight"], w[f"{p}ff.fc2.bias"]
                )
                x = norm(h + f, "norm2")
            out.append(F.log_softmax(F.linear(x, w["out_emb.weight"], w["out_emb.bias"]), -1))
        return torch.cat(out)

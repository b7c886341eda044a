"""Int8 weights with one float32 scale per output column, safe on every CPU's 8-bit instructions.

`vpmaddubsw`, what an x86 CPU without VNNI multiplies bytes with, adds the products of two neighbouring inputs in 16 bits and
saturates. With activations up to 255 the sum stays exact if two neighbouring weights of equal sign sum to at most 128,
so the scale is chosen for that as well: a fifth of a bit of resolution for results that are the same on every machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIR_LIMIT = 128  # floor(32767 / 255)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [n, k] float32 -> (int8 [n, k], scale [n] float32) with weight ~ int8 * scale. Raises ValueError on NaN or infinity."""
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is NaN or infinite")
    n, k = weight.shape
    pairs = weight.reshape(n, k // 2, 2)
    same_sign = torch.maximum(pairs.clamp(min=0).sum(-1), (-pairs).clamp(min=0).sum(-1)).amax(1)
    # One unit below the limit, because rounding can lift both members of a pair by half a unit.
    scale = torch.maximum(weight.abs().amax(1) / 127, same_sign / (PAIR_LIMIT - 1)).clamp(min=1e-12)
    return (weight / scale[:, None]).round().to(torch.int8), scale


def dequantise(q: Tensor, scale: Tensor) -> Tensor:
    return q.float() * scale[:, None]

"""Int8 weights that no 8-bit instruction can overflow on."""

from __future__ import annotations

import pytest
import torch

from quantise import PAIR_LIMIT, dequantise, quantise

WEIGHTS = {
    "normal": lambda g: torch.randn(64, 128, generator=g),
    "one sign": lambda g: torch.rand(64, 128, generator=g) + 0.5,
    "all equal": lambda g: torch.full((8, 128), -0.3),
    "one large": lambda g: torch.cat([torch.full((8, 1), 1e4), torch.randn(8, 127, generator=g)], 1),
    "heavy tail": lambda g: torch.randn(64, 128, generator=g) ** 5,
    "tiny": lambda g: torch.randn(8, 128, generator=g) * 1e-30,
    "zero": lambda g: torch.zeros(8, 128),
}


@pytest.fixture(params=sorted(WEIGHTS))
def weight(request: pytest.FixtureRequest) -> torch.Tensor:
    return WEIGHTS[request.param](torch.Generator().manual_seed(1))


def test_neighbours_never_saturate_16_bits(weight: torch.Tensor) -> None:
    q, _ = quantise(weight)
    pairs = q.int().reshape(len(q), -1, 2)
    assert int(pairs.clamp(min=0).sum(-1).max()) <= PAIR_LIMIT
    assert int((-pairs).clamp(min=0).sum(-1).max()) <= PAIR_LIMIT
    assert 255 * PAIR_LIMIT <= 32767


def test_error_is_at_most_half_a_step(weight: torch.Tensor) -> None:
    q, scale = quantise(weight)
    assert (scale > 0).all()
    step = scale[:, None].double()
    error = (q.double() * step - weight.double()).abs()
    assert (error <= step * (0.5 + 1e-5)).all()


def test_no_coarser_than_needed(weight: torch.Tensor) -> None:
    """The scale is the finest of one set by the largest weight and one set by the largest pair."""
    _, scale = quantise(weight)
    largest = weight.abs().amax(1)
    assert (scale <= torch.clamp(2 * largest / (PAIR_LIMIT - 1), min=1e-12) * (1 + 1e-6)).all()


def test_inverse_of_itself() -> None:
    q, scale = quantise(torch.randn(16, 32, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(dequantise(q, scale), q.float() * scale[:, None])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_what_is_no_number(bad: float) -> None:
    weight = torch.zeros(4, 8)
    weight[2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantise(weight)

"""RaggedAttention over lanes of any lengths, states and order against a masked softmax, one query at a time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import functions
from test_functions import call, normal

HEADS, D_HEAD, KEYS_MAX = 4, 16, 128
WIDTH = HEADS * D_HEAD


@dataclass
class Unit:
    """A run of queries of one lane: rows of q, how many keys each sees, and the slots of the keys."""

    rows: list[int]
    seen: list[int]
    slots: list[int]


def tables(groups: list[tuple[list[Unit], int, int]], rows: int) -> dict[str, Tensor]:
    """The inputs of RaggedAttention. A group: its units, m queries and n keys of each; shorter units are padded."""
    shapes, query_index, visible, key_index, row = [], [], [], [], [0] * rows
    for units, m, n in groups:
        u, q0, k0 = len(units), len(query_index), len(key_index)
        for unit in units:
            for i in range(m):
                if i < len(unit.rows):
                    row[unit.rows[i]] = len(query_index)
                query_index.append(unit.rows[i] if i < len(unit.rows) else unit.rows[0])
                visible.append(unit.seen[i] if i < len(unit.rows) else 1)
            key_index += unit.slots + [unit.slots[0]] * (n - len(unit.slots))
        shapes.append([u, 1, m, u, 1, n, u, 1, m, 1, u * m, WIDTH, q0, len(query_index), k0, len(key_index), n])
    int32 = lambda values: torch.tensor(values, dtype=torch.int32)
    return {
        "groups": torch.tensor(shapes), "query_index": int32(query_index), "visible": int32(visible),
        "key_index": int32(key_index), "row": int32(row),
    }  # fmt: skip


def attend(q: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    [o] = call(functions.ragged_attention(HEADS, D_HEAD, KEYS_MAX), {"q": q, "k": k, "v": v, **inputs}, {"o": "float[a, w]"})
    return o


def expected(q: Tensor, k: Tensor, v: Tensor, units: list[Unit]) -> Tensor:
    o = torch.full_like(q, torch.nan)
    for unit in units:
        for row, seen in zip(unit.rows, unit.seen, strict=True):
            keys, values = (pool[unit.slots[:seen]].reshape(seen, HEADS, D_HEAD) for pool in (k, v))
            weights = torch.einsum("hd,shd->hs", q[row].reshape(HEADS, D_HEAD), keys).softmax(-1)
            o[row] = torch.einsum("hs,shd->hd", weights, values).flatten()
    return o


def lanes(lengths: list[int], active: list[list[int]], seed: int) -> tuple[list[Unit], int]:
    """One unit a lane: causal queries at its active positions, slots in any order."""
    slots = torch.randperm(sum(lengths) + 5, generator=torch.Generator().manual_seed(seed)).tolist()
    units, row, slot = [], 0, 0
    for length, positions in zip(lengths, active, strict=True):
        rows = list(range(row, row + len(positions)))
        units.append(Unit(rows, [p + 1 for p in positions], slots[slot : slot + length]))
        row, slot = row + len(positions), slot + length
    return units, row


@pytest.fixture
def pools() -> tuple[Tensor, Tensor]:
    return normal(300, WIDTH, seed=1), normal(300, WIDTH, seed=2)


def test_groups_and_padding(pools: tuple[Tensor, Tensor]) -> None:
    k, v = pools
    units, rows = lanes([1, 5, 17, 40, 100, 33], [[0], [0, 1, 2, 3, 4], [3, 16], list(range(40)), [7, 50, 98, 99], [32]], seed=3)
    one, five, seventeen, forty, hundred, thirty_three = units
    q = normal(rows, WIDTH, seed=4)
    groups = [
        ([one, five], 5, 16),  # units of unlike lengths, padded in queries and keys
        ([seventeen, thirty_three], 2, 48),
        ([forty], 40, 40),  # no padding at all
        ([hundred], 6, 128),
    ]
    torch.testing.assert_close(attend(q, k, v, tables(groups, rows)), expected(q, k, v, units), atol=1e-5, rtol=1e-5)


def test_a_cut_lane_answers_as_a_whole_one(pools: tuple[Tensor, Tensor]) -> None:
    k, v = pools
    [lane], rows = lanes([70], [list(range(70))], seed=5)
    q = normal(rows, WIDTH, seed=6)
    cut = [
        Unit(lane.rows[:32], lane.seen[:32], lane.slots[:32]),
        Unit(lane.rows[32:64], lane.seen[32:64], lane.slots[:64]),
        Unit(lane.rows[64:], lane.seen[64:], lane.slots),
    ]
    groups = [([cut[0]], 32, 32), ([cut[1], cut[2]], 32, 80)]
    torch.testing.assert_close(attend(q, k, v, tables(groups, rows)), expected(q, k, v, [lane]), atol=1e-5, rtol=1e-5)


def test_padding_of_a_group_changes_no_bit(pools: tuple[Tensor, Tensor]) -> None:
    """With the same number of keys, a lane's answer is the same whatever shares its group, and however far that is padded."""
    k, v = pools
    units, rows = lanes([20, 30, 9], [[2, 5, 19], list(range(30)), [8]], seed=7)
    q = normal(rows, WIDTH, seed=8)
    together = attend(q, k, v, tables([(units, 30, 32)], rows))
    for unit in units:
        alone = Unit(list(range(len(unit.rows))), unit.seen, unit.slots)
        m = max(2, len(unit.rows))  # a single query takes another kernel, so the engine never makes one
        o = attend(q[unit.rows], k, v, tables([([alone], m, 32)], len(unit.rows)))
        assert torch.equal(o, together[unit.rows])


def test_hidden_keys_have_no_weight(pools: tuple[Tensor, Tensor]) -> None:
    k, v = (pool.clone() for pool in pools)
    [lane], rows = lanes([12], [[3, 5]], seed=9)
    q = normal(rows, WIDTH, seed=10)
    inputs = tables([([lane], 2, 16)], rows)
    before = attend(q, k, v, inputs)
    for slot in lane.slots[6:]:
        k[slot], v[slot] = 1e4, -1e6
    assert torch.equal(attend(q, k, v, inputs), before)

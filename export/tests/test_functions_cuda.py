"""Each function that stands for a CUDA kernel, alone, in ONNX Runtime on the CPU, against plain loops: rows of lanes, halves, and rows of
padding that hold -1 everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cuda_functions
from cuda_tables import LANES_MAX, PROGRESS, TILE_ROWS
from quantise import quantise
from test_functions import EPSILON, call, normal

D = 16
PADDING = [-1] * 8
BLANK = [-1, -1, 0, 1, 0, 0, 0, 255 * 256]
NORM = f"<epsilon = {EPSILON}>"


def run(function: str, inputs: dict[str, Tensor], outputs: dict[str, str], attributes: str = "") -> list[Tensor]:
    return call(function, inputs, outputs, attributes, cuda_functions.all_functions())


def int32(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def row(
    slot: int, position: int = 0, step: int = 1, first: int = 0, visible: int = 1, lane: int = 0, max_steps: int = 8, min_steps: int = 1
) -> list[int]:
    return [slot, slot + 100, position, step, first, visible, lane, max_steps * 256 + min_steps]


def half(*shape: int, seed: int) -> Tensor:
    return normal(*shape, seed=seed).half()


def test_start_rows() -> None:
    weight, scale = quantise(normal(12, D))
    pools = {"state": normal(9, D, seed=1), "accumulator": normal(9, D, seed=2), "halting": normal(9, 1, seed=3)}
    slots, ids = [3, 0, 6], [11, 0, 7]
    inputs = {"rows": int32([*map(row, slots), PADDING]), "ids": int32([*ids, -1]), "emb": weight, "scale": scale, **pools}
    outputs = {"state_out": "float[p, d]", "accumulator_out": "float[p, d]", "halting_out": "float[p, one]"}
    state, accumulator, halting = run(cuda_functions.start_rows(), inputs, outputs, "<factor = 4.0>")
    for slot, id in zip(slots, ids, strict=True):
        torch.testing.assert_close(state[slot], weight[id] * scale[id] * 4)
        assert not accumulator[slot].any() and halting[slot] == 0
    for slot in set(range(8)) - set(slots):  # the last is scrap
        assert all(torch.equal(new[slot], old[slot]) for new, old in zip((state, accumulator, halting), pools.values(), strict=True))


@pytest.mark.parametrize("causal", [True, False])
def test_start_lanes(causal: bool) -> None:
    weight, scale = quantise(normal(12, D))
    slots, table, before, at = 120, 110, 5, 0
    pools = {"state": normal(slots + 1, D, seed=1), "accumulator": normal(slots + 1, D, seed=2), "halting": normal(slots + 1, 1, seed=3)}
    active = int32([row(i, lane=7) for i in range(before)] + [BLANK] * (table - before))
    threshold = torch.rand(table, 1, generator=torch.Generator().manual_seed(4))
    # Lanes of 40, 1 and 33 rows in pieces of at most 32, and padding between and behind them that says anything but a count.
    pieces, thresholds, rows, want_thresholds = [], [], [], []
    for lane, (length, base, limit) in enumerate([(40, 60, 0.9), (1, 10, 0.5), (33, 12, 0.25)]):
        limits = 256 * (3 + lane) + 1
        for position in range(0, length, 32):
            count = min(32, length - position)
            pieces.append([at, before + at, base, position, count, lane, limits, 0 if causal else length])
            thresholds.append(limit)
            at += count
        pieces.append([3, 3, 3, 3, 0, 3, 3, 3])
        thresholds.append(-1)
        rows += [[base + i, base + i, i, 1, base, i + 1 if causal else length, lane, limits] for i in range(length)]
        want_thresholds += [limit] * length
    ids = int32([i % 12 for i in range(at)] + [-1] * 9)
    inputs = {"pieces": int32(pieces), "thresholds": torch.tensor(thresholds), "ids": ids, "emb": weight, "scale": scale}
    inputs |= {"active": active, "threshold": threshold, **pools}
    outputs = {"active_out": "int32[t, eight]", "threshold_out": "float[t, one]", "state_out": "float[p, d]"}
    outputs |= {"accumulator_out": "float[p, d]", "halting_out": "float[p, one]"}
    new, limits, state, accumulator, halting = run(cuda_functions.start_lanes(), inputs, outputs, "<factor = 4.0>")
    assert new.tolist() == active[:before].tolist() + rows + [BLANK] * (table - before - len(rows))
    expected = torch.cat([threshold[:before], torch.tensor(want_thresholds)[:, None], threshold[before + at :]])
    assert torch.equal(limits, expected)
    for i, r in enumerate(rows):
        torch.testing.assert_close(state[r[0]], weight[i % 12] * scale[i % 12] * 4)
        assert not accumulator[r[0]].any() and halting[r[0]] == 0
    for slot in set(range(slots)) - {r[0] for r in rows}:
        assert all(torch.equal(a[slot], b[slot]) for a, b in zip((state, accumulator, halting), pools.values(), strict=True))


def test_adaptive_input() -> None:
    state, halting = normal(9, D, seed=1), torch.rand(9, 1, generator=torch.Generator().manual_seed(2)) * 0.9
    positions, steps, halt, bias = normal(20, D, seed=3), normal(9, D, seed=4), normal(1, D, seed=5), torch.tensor([0.2])
    cases = [row(5, 19, 1), row(2, 7, 8), row(0, 3, 3, max_steps=3), row(7, 4, 2, min_steps=4), row(3, 0, 4, min_steps=4)]
    active, renewed = int32([*cases, PADDING]), int32([row(6, 2, 5), PADDING])
    threshold = torch.tensor([0.99, 0.99, 0.5, 0.6, 0.05, 1.0])[:, None]
    inputs = {"active": active, "renewed": renewed, "threshold": threshold, "state": state, "halting": halting}
    inputs |= {"positions": positions, "steps": steps, "halt": halt, "halt_bias": bias}
    outputs = {"normalised": "float16[r, d]", "x": "float[a, d]", "weight": "float[a, one]", "halted": "bool[a, one]"}
    outputs |= {"remainder": "float[a, one]", "halting_out": "float[p, one]"}
    normalised, x, weight, halted, remainder, after = run(cuda_functions.adaptive_input(), inputs, outputs, NORM)
    assert len(normalised) == 8 and len(x) == len(weight) == len(halted) == 6
    seen = set()
    for at, r in [*enumerate(cases), (6, renewed[0].tolist())]:
        want = state[r[0]] + positions[r[2]] + steps[r[3]]
        torch.testing.assert_close(normalised[at].float(), F.layer_norm(want, (D,), eps=EPSILON), atol=2e-3, rtol=1e-3)
        if at == 6:
            continue
        torch.testing.assert_close(x[at], want)
        p = torch.sigmoid(F.layer_norm(want, (D,), eps=EPSILON) @ halt[0] + bias[0]).item()
        sum, most, limit = halting[r[0]].item(), r[7] // 256, threshold[at].item()
        held = r[3] < r[7] % 256
        step = min(p, limit - sum) if held else p
        stops = r[3] == most or (not held and sum + step > limit)
        assert halted[at].item() == stops
        assert weight[at].item() == pytest.approx(1 - sum if stops else step, abs=1e-5)
        assert remainder[at].item() == pytest.approx(1 - sum if stops else 0, abs=1e-6)
        assert after[r[0]].item() == pytest.approx(1 if stops else sum + step, abs=1e-5)
        seen.add((stops, held))
    assert {stops for stops, _ in seen} == {held for _, held in seen} == {True, False}
    for slot in (1, 4, 6):  # of no active row; 8 is scrap
        assert after[slot] == halting[slot]


def test_write_cache() -> None:
    active, renewed = int32([row(4), row(1), PADDING]), int32([row(0), PADDING])
    active[:2, 1], renewed[0, 1] = int32([2, 6]), 3
    qkv, keys, values = half(5, 3 * D, seed=1), half(9, D, seed=2), half(9, D, seed=3)
    inputs = {"active": active, "renewed": renewed, "qkv": qkv, "keys": keys, "values": values}
    k, v = run(cuda_functions.write_cache(), inputs, {"keys_out": "float16[c, d]", "values_out": "float16[c, d]"})
    want_k, want_v = keys.clone(), values.clone()
    for at, place in ((0, 2), (1, 6), (3, 3)):
        want_k[place], want_v[place] = qkv[at, D : 2 * D], qkv[at, 2 * D :]
    assert torch.equal(k[:8], want_k[:8]) and torch.equal(v[:8], want_v[:8])


def test_write_memory() -> None:
    rows, kv, keys, values = int32([PADDING, row(4), PADDING]), half(3, 2 * D, seed=1), half(9, D, seed=2), half(9, D, seed=3)
    rows[1, 1] = 5
    inputs = {"rows": rows, "kv": kv, "keys": keys, "values": values}
    k, v = run(cuda_functions.write_memory(), inputs, {"keys_out": "float16[c, d]", "values_out": "float16[c, d]"})
    keys[5], values[5] = kv[1, :D], kv[1, D:]
    assert torch.equal(k[:8], keys[:8]) and torch.equal(v[:8], values[:8])


def attended(q: Tensor, keys: Tensor, values: Tensor, index: list[int], seen: list[tuple[int, int]], heads: int) -> Tensor:
    """softmax(q k^T) v, a query at a time."""
    out = []
    for query, (first, visible) in zip(q.double(), seen, strict=True):
        slots = index[first : first + visible]
        k, v = (pool.double()[slots].reshape(visible, heads, -1) for pool in (keys, values))
        weights = torch.einsum("hd,shd->hs", query.reshape(heads, -1), k).softmax(-1)
        out.append(torch.einsum("hs,shd->hd", weights, v).flatten())
    return torch.stack(out)


@pytest.mark.parametrize("memory", [False, True])
def test_tiled_attention(memory: bool) -> None:
    heads, width, pool = 4, 32, 200
    lengths = [1, 5, 70, 130, 3]
    rows, tiles, index, seen = [], [[0, 0]], [], []
    for lane, n in enumerate(lengths):
        first, at = len(index), len(rows)
        index += np.random.default_rng(lane).integers(0, pool, n).tolist()
        own = [i for i in range(n) if (i * 7) % 3 < 2 or n < 10]
        seen += [(first, i + 1) for i in own]
        rows += [row(0, i, lane=lane, first=-1 if memory else first, visible=-1 if memory else i + 1) for i in own]
        tiles += [[start, min(TILE_ROWS, len(rows) - start)] for start in range(at, len(rows), TILE_ROWS)]
    count = len(rows)
    rows += [PADDING] * 3
    q, keys, values = half(count + 5, 3 * width, seed=5), half(pool, width, seed=6), half(pool, width, seed=7)
    inputs = {
        "q": q,
        "keys": keys,
        "values": values,
        "active": int32(rows),
        "tiles": int32([*tiles, [0, 0]]),
        "key_index": int32([*index, -1]),
    }
    if memory:
        inputs["seen"] = int32([*seen, *[(-1, -1)] * 3])
    function = cuda_functions.tiled_memory_attention() if memory else cuda_functions.tiled_attention()
    [o] = run(function, inputs, {"o": "float16[a, w]"}, f"<heads = {heads}>")
    assert o.shape == (count + 3, width)
    want = attended(q[:count, :width], keys, values, index, seen, heads)
    torch.testing.assert_close(o[:count].double(), want, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("memory", [False, True])
def test_row_attention(memory: bool) -> None:
    heads, width, pool = 4, 32, 200
    index, seen = [], []
    for i, n in enumerate([1, 5, 70, 33, 3, 32]):
        seen.append((len(index), n))
        index += np.random.default_rng(i).integers(0, pool, n).tolist()
    rows = [row(0, lane=i, first=-1 if memory else first, visible=-1 if memory else n) for i, (first, n) in enumerate(seen)]
    count = len(rows)
    q, keys, values = half(count + 5, 3 * width, seed=5), half(pool, width, seed=6), half(pool, width, seed=7)
    inputs = {"q": q, "keys": keys, "values": values, "active": int32([*rows, *[PADDING] * 3]), "key_index": int32([*index, -1])}
    if memory:
        inputs["seen"] = int32([*seen, *[(-1, -1)] * 3])
    function = cuda_functions.row_memory_attention() if memory else cuda_functions.row_attention()
    [o] = run(function, inputs, {"o": "float16[a, w]"}, f"<heads = {heads}>")
    assert o.shape == (count + 3, width)
    torch.testing.assert_close(o[:count].double(), attended(q[:count, :width], keys, values, index, seen, heads), atol=2e-3, rtol=1e-3)


def test_attention_over_nothing_but_padding() -> None:
    inputs = {"q": half(2, D, seed=1), "keys": half(3, D, seed=2), "values": half(3, D, seed=3), "active": int32([PADDING] * 2)}
    inputs |= {"tiles": int32([[0, 0]]), "key_index": int32([-1])}
    [o] = run(cuda_functions.tiled_attention(), inputs, {"o": "float16[a, w]"}, "<heads = 2>")
    assert o.shape == (2, D) and torch.isfinite(o).all()


def test_products() -> None:
    x, w, b, residual = half(5, 32, seed=1), half(32, 24, seed=2), normal(24, seed=3), normal(5, 24, seed=4)
    exact = x.double() @ w.double()
    y = {"y": "float16[r, n]"}
    [plain] = run(cuda_functions.linear(), {"x": x, "w": w, "b": b.half()}, y)
    torch.testing.assert_close(plain.double(), exact + b.half(), atol=1e-3, rtol=6e-4)
    [positive] = run(cuda_functions.linear_relu(), {"x": x, "w": w, "b": b.half()}, y)
    assert torch.equal(positive, plain.relu())
    [added] = run(cuda_functions.linear_add(), {"x": x, "w": w, "b": b, "residual": residual}, {"y": "float[r, n]"})
    torch.testing.assert_close(added.double(), exact + b + residual, atol=1e-5, rtol=1e-5)
    [logits] = run(cuda_functions.logits(), {"x": x, "w": w.T.contiguous()}, {"y": "float[r, n]"})
    torch.testing.assert_close(logits.double(), exact, atol=1e-5, rtol=1e-5)


def test_normalize_rows() -> None:
    x = normal(5, D, seed=1) * 3 + 1
    [y] = run(cuda_functions.normalize_rows(), {"x": x}, {"y": "float16[r, d]"}, NORM)
    torch.testing.assert_close(y.float(), F.layer_norm(x, (D,), eps=EPSILON), atol=1e-3, rtol=1e-3)


def test_write_rows() -> None:
    z, weight, state, accumulator = normal(3, D, seed=1), normal(3, 1, seed=2), normal(7, D, seed=3), normal(7, D, seed=4)
    inputs = {"active": int32([row(4), PADDING, row(2)]), "z": z, "weight": weight, "state": state, "accumulator": accumulator}
    new_state, sums = run(cuda_functions.write_rows(), inputs, {"state_out": "float[p, d]", "accumulator_out": "float[p, d]"})
    for slot in range(6):
        at = {4: 0, 2: 2}.get(slot)
        assert torch.equal(new_state[slot], state[slot] if at is None else z[at])
        torch.testing.assert_close(sums[slot], accumulator[slot] + (0 if at is None else weight[at] * z[at]))


def tiles_of(counts: dict[int, int], firsts: dict[int, int], capacity: int) -> list[list[int]]:
    tiles = [[firsts[lane] + at, min(TILE_ROWS, counts[lane] - at)] for lane in sorted(counts) for at in range(0, counts[lane], TILE_ROWS)]
    return (tiles + [[0, 0]] * capacity)[:capacity]


def test_lane_tiles() -> None:
    counts, firsts = torch.zeros(LANES_MAX, dtype=torch.int32), torch.full((LANES_MAX,), 2**31 - 1, dtype=torch.int32)
    for lane, (count, first) in {0: (64, 7), 5: (65, 100), 6: (1, 71), 1023: (200, 300)}.items():
        counts[lane], firsts[lane] = count, first
    inputs = {"counts": counts, "firsts": firsts, "tile_table": int32([[9, 9]] * 12)}
    tiles, total = run(cuda_functions.lane_tiles(), inputs, {"tiles_out": "int32[t, two]", "tiles": "int32[1]"})
    assert total.tolist() == [8]
    lanes = {0: 64, 5: 65, 6: 1, 1023: 200}
    assert tiles.tolist() == tiles_of(lanes, {0: 7, 5: 100, 6: 71, 1023: 300}, 12)


def ragged(seed: int) -> tuple[list[list[int]], dict[int, int], dict[int, int]]:
    """Rows of lanes in any order, each lane's side by side."""
    draw = np.random.default_rng(seed)
    rows, counts, firsts = [], {}, {}
    for lane in draw.permutation([0, 3, 4, 200, 1023, 77]).tolist():
        firsts[lane], counts[lane] = len(rows), int(draw.integers(1, 150))
        rows += [row(len(rows) + i, i, 3, 5, i + 1, lane) for i in range(counts[lane])]
    return rows, counts, firsts


def test_tile_rows() -> None:
    rows, counts, firsts = ragged(1)
    inputs = {"active": int32(rows + [PADDING] * 5), "tile_table": int32([[3, 3]] * 30)}
    tiles, progress = run(cuda_functions.tile_rows(), inputs, {"tiles_out": "int32[t, two]", "progress": f"int32[{PROGRESS}]"})
    assert tiles.tolist() == tiles_of(counts, firsts, 30)
    assert progress[:4].tolist() == [len(rows), 0, sum(math.ceil(n / TILE_ROWS) for n in counts.values()), 0]
    assert progress[4:].tolist() == [counts.get(lane, 0) for lane in range(LANES_MAX)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_compact_rows(share: float) -> None:
    rows, _, _ = ragged(2)
    count, draw = len(rows), np.random.default_rng(3)
    stops = draw.random(count) < share
    for i, r in enumerate(rows):
        stops[i] |= r[6] == 4  # a lane that leaves as a whole
    extra, table, window, pool = 4, count + 10, count // 2, count + 1
    threshold, remainder = torch.rand(count + extra, 1), torch.rand(count + extra, 1)
    # Nothing beyond the renewed rows of a step was ever left in the table.
    renewed_table = int32([row(900 + i, step=2) for i in range(window)] + [BLANK] * (table - window))
    inputs = {
        "active": int32(rows + [PADDING] * extra), "threshold": threshold,
        "halted": torch.tensor(stops.tolist() + [True] * extra)[:, None],
        "remainder": remainder, "renewed": renewed_table[:window].clone(), "renewed_table": renewed_table,
        "tile_table": int32([[3, 3]] * 30), "depths": int32([-7] * pool), "remainders": torch.full((pool,), -7.0), "after": normal(pool, 3),
    }  # fmt: skip
    outputs = {
        "active_out": "int32[a, eight]", "threshold_out": "float[a, one]", "renewed_out": "int32[t, eight]", "tiles_out": "int32[s, two]",
        "depths_out": "int32[p]", "remainders_out": "float[p]", "progress": f"int32[{PROGRESS}]",
    }  # fmt: skip
    active, thresholds, renewed, tiles, depths, remainders, progress = run(cuda_functions.compact_rows(), inputs, outputs)
    ahead = lambda r: [*r[:3], r[3] + 1, *r[4:]]
    kept = [i for i in range(count) if not stops[i]]
    counts = {lane: sum(rows[i][6] == lane for i in kept) for lane in {rows[i][6] for i in kept}}
    again = [i for i in range(count) if stops[i] and counts.get(rows[i][6], 0) > 0]
    assert active.tolist() == [ahead(rows[i]) for i in kept] + [BLANK] * (count + extra - len(kept))
    assert torch.equal(thresholds, torch.cat([threshold[kept], torch.ones(count + extra - len(kept), 1)]))
    assert renewed.tolist() == [ahead(rows[i]) for i in again] + [BLANK] * (table - len(again))
    firsts = {lane: min(at for at, i in enumerate(kept) if rows[i][6] == lane) for lane in counts}
    assert tiles.tolist() == tiles_of(counts, firsts, 30)
    for i, r in enumerate(rows):
        assert depths[r[0]] == (3 if stops[i] else -7) and remainders[r[0]] == (remainder[i, 0] if stops[i] else -7)
    assert progress[:4].tolist() == [len(kept), len(again), sum(math.ceil(n / TILE_ROWS) for n in counts.values()), 0]
    assert progress[4:].tolist() == [counts.get(lane, 0) for lane in range(LANES_MAX)]


def test_reading_sums() -> None:
    accumulator, gain, shift = normal(7, D, seed=1) * 2, normal(D, seed=2), normal(D, seed=3)
    slots = int32([5, 0, -1])
    want = F.layer_norm(accumulator[[5, 0, 6]], (D,), eps=EPSILON)
    y = {"y": "float16[r, d]"}
    [unit] = run(cuda_functions.read_normalized(), {"accumulator": accumulator, "slots": slots}, y, NORM)
    torch.testing.assert_close(unit.float(), want, atol=1e-3, rtol=1e-3)
    inputs = {"accumulator": accumulator, "slots": slots, "gain": gain, "shift": shift}
    [gained] = run(cuda_functions.read_sums(), inputs, y, NORM)
    torch.testing.assert_close(gained.float(), want * gain + shift, atol=2e-3, rtol=1e-3)


def test_log_probabilities() -> None:
    products, scale = normal(4, 50, seed=1) * 5, 0.5 + normal(50, seed=2).abs()
    scale[7] = scale[9] = 1.0
    products[2, 7] = products[2, 9] = 40.0  # a tie
    logits = products * scale
    want = logits.log_softmax(-1)
    targets = {"products": products, "scale": scale, "targets": int32([3, 49, 7, -1])}
    [chosen] = run(cuda_functions.target_log_prob(), targets, {"logprob": "float[r]"})
    torch.testing.assert_close(chosen[:3], want[[0, 1, 2], [3, 49, 7]])
    outputs = {"best": "float[r, k]", "ids": "int32[r, k]"}
    best, ids = run(cuda_functions.top_log_probs(), {"products": products, "scale": scale, "k": torch.tensor([6])}, outputs)
    torch.testing.assert_close(best, want.topk(6).values)
    torch.testing.assert_close(want.gather(1, ids.long()), best)
    assert ids[2, :2].tolist() == [7, 9]


@pytest.mark.parametrize("vocabulary", [150, 128])
def test_logits_in_groups(vocabulary: int) -> None:
    x, w, scale = half(5, D, seed=1), (normal(vocabulary, D, seed=2) * 40).round().half(), 0.01 + normal(vocabulary, seed=3).abs() / 20
    w[9] = w[100] = (x[2] * 90).round()  # a tie, in two groups
    scale[9] = scale[100] = 0.2
    logits = (x.double() @ w.double().T) * scale
    groups = {"peaks": "float[g, r]", "sums": "float[g, r]", "ids": "int32[g, r]"}
    peaks, sums, words = run(cuda_functions.logit_groups(), {"x": x, "w": w, "scale": scale}, groups)
    assert len(peaks) == math.ceil(vocabulary / 64)
    for g, part in enumerate(logits.split(64, dim=1)):
        torch.testing.assert_close(peaks[g].double(), part.max(1).values, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(sums[g].double(), (part - part.max(1, keepdim=True).values).exp().sum(1), atol=1e-4, rtol=1e-4)
        assert words[g].tolist() == (64 * g + part.argmax(1)).tolist()
    want = logits.log_softmax(-1)
    inputs = {"peaks": peaks, "sums": sums, "x": x, "w": w, "scale": scale, "targets": int32([3, vocabulary - 1, 9, 0, 77])}
    [chosen] = run(cuda_functions.grouped_target_log_prob(), inputs, {"logprob": "float[r]"})
    torch.testing.assert_close(chosen.double(), want[range(5), [3, vocabulary - 1, 9, 0, 77]], atol=1e-4, rtol=1e-5)
    inputs = {"peaks": peaks, "sums": sums, "words": words, "scale": scale}
    best, ids = run(cuda_functions.grouped_best(), inputs, {"best": "float[r, one]", "ids": "int32[r, one]"})
    torch.testing.assert_close(best[:, 0].double(), want.max(1).values, atol=1e-4, rtol=1e-5)
    assert ids[2] == 9 and ids[:, 0].tolist() == want.argmax(1).tolist()


def test_read_halting() -> None:
    inputs = {"depths": int32([4, 5, 6]), "remainders": torch.tensor([0.1, 0.2, 0.3]), "slots": int32([1, -1, 0])}
    depth, remainder = run(cuda_functions.read_halting(), inputs, {"depth": "int32[r]", "remainder": "float[r]"})
    assert depth.tolist() == [5, 6, 4] and torch.equal(remainder, torch.tensor([0.2, 0.3, 0.1]))

"""The functions by which sentences decode without the host, in ONNX Runtime on the CPU, against a plain loop over seats."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cuda_seats
from quantise import quantise
from test_functions import normal
from test_functions_cuda import D, int32, run

EOS, CONTEXT, MAX_STEPS = 2, 12, 6
SEAT = (
    "running", "planned", "position", "steps_here", "token", "said", "steps", "renew", "memory_first", "memory_count", "base", "limits",
    "tokens_max",
)  # fmt: skip
OUTPUTS = {
    "seats_out": "int32[r, sixteen]", "key_depths_out": "int32[r, c]", "said_ids_out": "int32[r, c, two]",
    "said_numbers_out": "float[r, c, two]",
    "active": "int32[r, eight]", "renewed": "int32[r, eight]", "key_index": "int32[k]", "seen": "int32[r, two]", "slots": "int32[r]",
    "state_out": "float[p, d]", "accumulator_out": "float[p, d]", "halting_out": "float[p, one]",
}  # fmt: skip
TABLE_BLANK = [-1, -1, 0, 1, 0, 1, 0, 65280]


def numbers(seat: dict[str, int]) -> list[int]:
    return [seat.get(name, 0) for name in SEAT] + [0] * (cuda_seats.SEAT_FIELDS - len(SEAT))


def seat(**fields: int) -> dict[str, int]:
    at = {"running": 1, "memory_first": 40, "memory_count": 7, "base": 500, "limits": MAX_STEPS * 256 + 1, "tokens_max": 9}
    return dict.fromkeys(SEAT, 0) | at | fields


def advance(i: int, s: dict[str, int], depths: list[int], result: tuple[bool, float, float, int], plans: int) -> dict[str, object]:
    """What becomes of seat i, said plainly."""
    halted, remainder, logprob, token = result
    said = None
    if s["planned"]:
        s["steps_here"] += 1
        s["steps"] += 1
        if halted:
            n = s["steps_here"]
            said = (s["said"], [token, n], [logprob, remainder])
            s["said"] += 1
            depths[s["position"]] = min(n + 1, MAX_STEPS)
            if token == EOS or s["said"] >= s["tokens_max"]:
                s["running"] = 0
            else:
                s["renew"] = n + 1 if n < MAX_STEPS else 0
                s["position"] += 1
                s["token"], s["steps_here"] = token, 0
    s["planned"] = int(bool(s["running"]) and plans == 1)
    out: dict[str, object] = {"said": said, "active": TABLE_BLANK, "renewed": TABLE_BLANK, "starts": None, "keys": [], "seen": [0, 1]}
    if not s["running"]:
        return out | {"slot": -1}
    p, t = s["position"], s["steps_here"] + 1
    row_of = lambda position, depth: s["base"] + position * MAX_STEPS + depth - 1  # noqa: E731
    row = [2 * i + p % 2, row_of(p, t), p, t, i * CONTEXT, p + 1, 0, s["limits"]]
    out |= {"active": row, "slot": row[0], "seen": [s["memory_first"], s["memory_count"]]}
    out["keys"] = [row_of(j, min(t, depths[j])) for j in range(p)] + [row[1]]
    if t == 1:
        out |= {"starts": (row[0], s["token"])} if plans else {}
        if s["renew"]:
            out["renewed"] = [2 * i + (p - 1) % 2, row_of(p - 1, s["renew"]), p - 1, s["renew"], 0, p, 0, 65280]
    return out


CASES = [
    (seat(token=1), (True, 0.5, -1.0, 7)),  # just seated: what lies in its row of results is another's
    (seat(planned=1, token=1), (False, 0.5, -1.0, 7)),
    (seat(planned=1, token=1, steps_here=2, steps=2), (True, 0.25, -1.5, 7)),  # the first token
    (seat(planned=1, position=3, steps_here=5, steps=15, said=3, renew=2), (True, 0.1, -0.5, 11)),  # at full depth: nothing deeper to renew
    (seat(planned=1, position=4, steps_here=1, steps=9, said=4, renew=2), (False, 0.1, -0.5, 11)),
    (seat(planned=1, position=4, steps_here=1, steps=9, said=4), (True, 0.1, -0.5, EOS)),
    (seat(planned=1, position=8, steps_here=0, steps=30, said=8), (True, 0.1, -0.5, 5)),  # tokens_max
    (seat(running=0), (True, 0.1, -0.5, 5)),
    (seat(position=2, said=2, steps=6, renew=4), (True, 0.1, -0.5, 5)),  # settled between two launches, its position yet to begin
]


@pytest.mark.parametrize("plans", [1, 0])
def test_advance_seats(plans: int) -> None:
    seats = [dict(s) for s, _ in CASES]
    r = len(seats)
    key_depths = [[1 + (i + j) % MAX_STEPS for j in range(CONTEXT)] for i in range(r)]
    said_ids, said_numbers = torch.full((r, CONTEXT, 2), -7, dtype=torch.int32), torch.full((r, CONTEXT, 2), -7.0)
    column = lambda of, dtype: torch.tensor([[result[of]] for _, result in CASES], dtype=dtype)  # noqa: E731
    weight, scale = quantise(normal(40, D))
    pools = {"state": normal(2 * r + 1, D, seed=1), "accumulator": normal(2 * r + 1, D, seed=2), "halting": normal(2 * r + 1, 1, seed=3)}
    inputs: dict[str, Tensor] = {
        "seats": int32([numbers(s) for s in seats]), "key_depths": int32(key_depths), "halted": column(0, torch.bool),
        "remainder": column(1, torch.float32), "logprob": column(2, torch.float32), "id": column(3, torch.int32),
        "said_ids": said_ids, "said_numbers": said_numbers, "emb": weight, "scale": scale, **pools,
    }  # fmt: skip
    attributes = f"<eos = {EOS}, plans = {plans}, factor = 4.0>"
    found = dict(zip(OUTPUTS, run(cuda_seats.advance_seats(), inputs, OUTPUTS, attributes), strict=True))
    started = {}
    for i, (s, (_, result)) in enumerate(zip(seats, CASES, strict=True)):
        want = advance(i, s, key_depths[i], result, plans)
        assert found["seats_out"][i].tolist() == numbers(s), i
        assert found["key_depths_out"][i].tolist() == key_depths[i], i
        for table in ("active", "renewed"):
            assert found[table][i].tolist() == want[table], (i, table)
        assert found["slots"][i] == want["slot"] and found["seen"][i].tolist() == want["seen"]
        started |= dict([want["starts"]] if want["starts"] else [])
        keys = found["key_index"][i * CONTEXT : (i + 1) * CONTEXT].tolist()
        assert keys == want["keys"] + [0] * (CONTEXT - len(want["keys"])), i
        if want["said"] is not None:
            at, said_ids[i, at], said_numbers[i, at] = want["said"][0], int32(want["said"][1]), torch.tensor(want["said"][2])
    assert torch.equal(found["said_ids_out"], said_ids)
    torch.testing.assert_close(found["said_numbers_out"], said_numbers)
    assert len(started) == (4 if plans else 0)
    for slot in range(2 * r):  # the last is scrap
        if slot in started:
            id = started[slot]
            torch.testing.assert_close(found["state_out"][slot], weight[id] * scale[id] * 4)
            assert not found["accumulator_out"][slot].any() and found["halting_out"][slot] == 0
        else:
            assert all(torch.equal(found[f"{name}_out"][slot], pools[name][slot]) for name in pools)


def test_seat_sentences() -> None:
    seats, threshold = int32([[i] * 16 for i in range(5)]), torch.arange(5.0).unsqueeze(1)
    arrivals = int32([numbers(seat(token=1)), [9] * 16, numbers(seat(token=3))])
    thresholds = torch.tensor([0.9, 0.0, 0.5])
    inputs = {"at": int32([3, -1, 0]), "arrivals": arrivals, "thresholds": thresholds, "seats": seats, "threshold": threshold}
    outputs = {"seats_out": "int32[s, sixteen]", "threshold_out": "float[s, one]"}
    seated, asked = run(cuda_seats.seat_sentences(), inputs, outputs)
    assert torch.equal(seated[[3, 0]], arrivals[[0, 2]]) and torch.equal(seated[[1, 2]], seats[[1, 2]])
    torch.testing.assert_close(asked[:4, 0], torch.tensor([0.5, 1.0, 2.0, 0.9]))

"""Drives the graphs of precision `float16` as the server does: tables and pools bound as input and output of each run, tables cut to
buckets, rows of padding everywhere. On the CPU provider, with the functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

PADDING = [-1] * 8
CHUNK = 64
Array = np.ndarray


class Graphs:
    """The float16 graphs of a package. `run` writes outputs named `X_out` into the memory of `X`, as far as `X` is bound."""

    def __init__(self, folder: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.sessions = {
            path.name.split(".")[0]: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in folder.glob("*.float16.onnx")
        }

    def run(self, name: str, bound: dict[str, Array], tables: dict[str, Array] | None = None) -> dict[str, Array]:
        """`tables`: where outputs go whose input is bound shorter than the table. Returns the outputs that have no place."""
        session, places = self.sessions[name], {**{f"{k}_out": v for k, v in bound.items()}, **(tables or {})}
        binding = session.io_binding()
        for value in session.get_inputs():
            array = bound[value.name]
            assert array.flags.c_contiguous and value.type == f"tensor({KINDS[array.dtype.type]})", value.name
            binding.bind_input(value.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        free = []
        for value in session.get_outputs():
            if value.name in places:
                array = places[value.name]
                binding.bind_output(value.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            else:
                binding.bind_output(value.name, "cpu")
                free.append(value.name)
        session.run_with_iobinding(binding)
        outputs = dict(zip([value.name for value in session.get_outputs()], binding.get_outputs(), strict=True))
        return {name: outputs[name].numpy() for name in free}


KINDS = {np.float32: "float", np.float16: "float16", np.int32: "int32", np.int64: "int64", np.bool_: "bool"}


def int32(values: object) -> Array:
    return np.ascontiguousarray(values, dtype=np.int32)


def bucket(count: int) -> int:
    """Row counts that a host would have captured: a few, and always room for a row of padding."""
    return next(size for size in (8, 24, 56, 120, 250, 512, 1024, 2048, 4096) if size > count)


def padded(rows: list[list[int]], count: int) -> Array:
    return int32(rows + [PADDING] * (count - len(rows)))


def tiles_of(sizes: list[int]) -> Array:
    """Tiles of runs of rows, one after another, and one of padding."""
    first = np.cumsum([0, *sizes])
    tiles = [[at, min(64, first[i] + n - at)] for i, n in enumerate(sizes) for at in range(first[i], first[i] + n, 64)]
    return int32([*tiles, [0, 0]])


@dataclass
class Limits:
    max_steps: int = 8
    min_steps: int = 1
    threshold: float = 0.99

    @property
    def column(self) -> int:
        return self.max_steps * 256 + self.min_steps


@dataclass
class Pools:
    """`slots` rows and one of scrap; the cache likewise. Filled with what must never be read."""

    slots: int
    cache_rows: int
    width: int
    state: Array = field(init=False)
    accumulator: Array = field(init=False)
    halting: Array = field(init=False)
    keys: Array = field(init=False)
    values: Array = field(init=False)
    depths: Array = field(init=False)
    remainders: Array = field(init=False)

    def __post_init__(self) -> None:
        draw = np.random.default_rng(5)
        floats = lambda *shape: draw.normal(size=shape).astype(np.float32)
        self.state, self.accumulator = floats(self.slots + 1, self.width), floats(self.slots + 1, self.width)
        self.halting = np.full((self.slots + 1, 1), 0.5, np.float32)
        self.keys, self.values = (floats(self.cache_rows + 1, self.width).astype(np.float16) for _ in range(2))
        self.depths, self.remainders = np.zeros(self.slots + 1, np.int32), np.zeros(self.slots + 1, np.float32)

    def bound(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in ("state", "accumulator", "halting", "keys", "values")}

    def halted(self) -> dict[str, Array]:
        return {"depths": self.depths, "remainders": self.remainders}


def begin(graphs: Graphs, pools: Pools, rows: list[list[int]], ids: list[int]) -> None:
    count = len(rows) + 3
    keys = ("state", "accumulator", "halting")
    bound = {"rows": padded(rows, count), "ids": int32([*ids, *[-1] * 3]), **{k: getattr(pools, k) for k in keys}}
    graphs.run("begin", bound)


@dataclass
class Lane:
    """A text or a source sentence: its token ids, one a position, and which slot each position has."""

    ids: list[int]
    slots: list[int]
    limits: Limits = field(default_factory=Limits)


def ponder(graphs: Graphs, pools: Pools, lanes: list[Lane], step: str, causal: bool, entering: dict[int, list[int]]) -> list[list[int]]:
    """Runs `step` until every row has halted. `entering`: {step of the loop: lanes that begin before it}. Returns the progress of each
    step: active rows, renewed rows, tiles."""
    total = sum(len(lane.ids) for lane in lanes)
    renewed_table, tile_table = padded([], total + 4), np.zeros((2 * len(lanes) + total // 64 + 4, 2), np.int32)
    active, threshold = padded([], total + 4), np.ones((total + 4, 1), np.float32)
    first = np.cumsum([0, *(len(lane.ids) for lane in lanes)])
    key_index = int32([slot for lane in lanes for slot in lane.slots] + [-1] * 5)
    count = renewed = tile_count = 0
    history: list[list[int]] = []
    while count > 0 or len(history) <= max(entering):
        for number in entering.get(len(history), []):
            lane, n = lanes[number], len(lanes[number].ids)
            rows = [[s, s, i, 1, first[number], i + 1 if causal else n, number, lane.limits.column] for i, s in enumerate(lane.slots)]
            begin(graphs, pools, rows, lane.ids)
            active[count : count + n], threshold[count : count + n] = rows, lane.limits.threshold
            count += n
        if len(history) in entering:
            out = graphs.run("tile", {"active": active[: bucket(count)], "tile_table": tile_table}, {"tiles_out": tile_table})
            assert out["progress"][:2].tolist() == [count, 0]
            tile_count = int(out["progress"][2])
        rows_bound, renewed_bound = min(bucket(count), len(active)), min(bucket(renewed), len(renewed_table))
        bound = {
            "active": active[:rows_bound], "renewed": renewed_table[:renewed_bound], "threshold": threshold[:rows_bound],
            "tiles": tile_table[: tile_count + 1], "key_index": key_index, "renewed_table": renewed_table, "tile_table": tile_table,
            **pools.bound(), **pools.halted(),
        }  # fmt: skip
        out = graphs.run(step, bound, {"renewed_out": renewed_table, "tiles_out": tile_table})
        count, renewed, tile_count, _ = (int(x) for x in out["progress"][:4])
        lanes_running = out["progress"][4:]
        assert lanes_running.sum() == count
        assert (active[count:, 0] == -1).all() and (renewed_table[renewed:, 0] == -1).all() and (active[:count, 0] >= 0).all()
        history.append([count, renewed, tile_count])
    return history


def score(graphs: Graphs, pools: Pools, lane: Lane, targets: list[int], k: int = 0) -> dict[str, Array]:
    """The `finish` graph over a lane, in chunks that end with padding."""
    parts: list[dict[str, Array]] = []
    for at in range(0, len(targets), CHUNK - 3):
        slots, wanted = lane.slots[at : at + CHUNK - 3], targets[at : at + CHUNK - 3]
        fill = [-1] * (CHUNK - len(slots))
        bound = {"accumulator": pools.accumulator, "slots": int32(slots + fill), "targets": int32(wanted + fill), **pools.halted()}
        out = graphs.run("finish_top" if k else "finish", bound | ({"k": np.array([k], np.int64)} if k else {}))
        parts.append({name: value[: len(slots)] for name, value in out.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def remember(graphs: Graphs, pools: Pools, lanes: list[Lane], memory: dict[str, Array], places: list[list[int]]) -> list[list[int]]:
    """Keys and values of encoded lanes into `places` of the memory pools; returns the depth of every position."""
    depths = []
    for lane, place in zip(lanes, places, strict=True):
        rows = padded([[slot, at, -1, -1, -1, -1, -1, -1] for slot, at in zip(lane.slots, place, strict=True)], len(place) + 2)
        bound = {"accumulator": pools.accumulator, "slots": int32(lane.slots + [-1] * 2), "rows": rows, **memory, **pools.halted()}
        depths.append(graphs.run("encoder_finish", bound)["depth"][: len(place)].tolist())
    return depths


@dataclass
class Hypothesis:
    """Tokens from <s> on, fed one at a time. A position has a key a step, as long as it runs, and one more; `cache` says where."""

    ids: list[int]
    memory: list[int]
    cache: list[list[int]] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)

    def keys(self, step: int) -> list[int]:
        """Of all positions so far, as they stand at `step`: one that has halted stays as it was when renewed."""
        steps = [min(step, depth + 1) for depth in self.depths] + [step]
        return [rows[t - 1] for rows, t in zip(self.cache, steps, strict=True)]


def decode(
    graphs: Graphs, pools: Pools, memory: dict[str, Array], hypotheses: list[Hypothesis], limits: Limits, k: int
) -> list[list[Array]]:
    """Feeds every hypothesis its ids; returns the k best log-probabilities and ids after each: {hypothesis: [n, k]}."""
    best: list[tuple[list[Array], list[Array]]] = [([], []) for _ in hypotheses]
    renewed: list[list[int]] = []
    free = list(range(pools.cache_rows))
    for position in range(max(len(h.ids) for h in hypotheses)):
        now = [h for h in range(len(hypotheses)) if position < len(hypotheses[h].ids)]
        # A position that halted is renewed at the next step, when the next position has begun: two slots a hypothesis, in turn.
        slot_of = {h: 2 * h + position % 2 for h in now}
        for h in now:
            hypotheses[h].cache.append([free.pop() for _ in range(limits.max_steps)])
        begin(graphs, pools, [[slot_of[h]] + [-1] * 7 for h in now], [hypotheses[h].ids[position] for h in now])
        running, depths = now, {}
        for step in range(1, limits.max_steps + 1):
            rows = [[slot_of[h], hypotheses[h].cache[position][step - 1], position, step, 0, 0, 0, limits.column] for h in running]
            index: list[int] = []
            for row, h in zip(rows, running, strict=True):
                keys = hypotheses[h].keys(step)
                row[4:6] = [len(index), len(keys)]
                index += keys
            memory_first = np.cumsum([0, *(len(hypotheses[h].memory) for h in running)])
            seen = [[memory_first[i], len(hypotheses[h].memory)] for i, h in enumerate(running)]
            count = bucket(len(rows))
            bound = {
                "active": padded(rows, count), "renewed": padded(renewed, bucket(len(renewed))),
                "threshold": np.full((count, 1), limits.threshold, np.float32),
                "tiles": tiles_of([1] * len(rows)), "key_index": int32([*index, -1]), **pools.bound(), **memory,
                "memory_tiles": tiles_of([1] * len(rows)), "seen": int32(seen + [[-1, -1]] * (count - len(rows))),
                "memory_key_index": int32([*(at for h in running for at in hypotheses[h].memory), -1]),
            }  # fmt: skip
            out = graphs.run("decoder_step", bound)
            halted = out["halted"][: len(rows), 0]
            renewed = []
            for stops, h in zip(halted.tolist(), list(running), strict=True):
                if stops:
                    depths[h] = step
                    # What halts at the last step is never seen again at a later one.
                    if step < limits.max_steps:
                        renewed.append([slot_of[h], hypotheses[h].cache[position][step], position, step + 1, -1, -1, -1, -1])
            running = [h for h in running if h not in depths]
            if not running:
                break
        out = graphs.run("decoder_finish", {
            "accumulator": pools.accumulator, "slots": int32([*(slot_of[h] for h in now), -1]), "k": np.array([k], np.int64),
        })  # fmt: skip
        one = graphs.run("decoder_best", {"accumulator": pools.accumulator, "slots": int32([*(slot_of[h] for h in now), -1])})
        np.testing.assert_allclose(one["top_logprobs"][:, 0], out["top_logprobs"][:, 0], atol=1e-4, rtol=0)
        assert one["top_ids"][:, 0].tolist() == out["top_ids"][:, 0].tolist()
        for i, h in enumerate(now):
            hypotheses[h].depths.append(depths[h])
            best[h][0].append(out["top_logprobs"][i])
            best[h][1].append(out["top_ids"][i])
    return [[np.stack(part) for part in parts] for parts in best]

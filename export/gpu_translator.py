"""Greedy translation as one would write it for speed in PyTorch, of the parts in gpu_models.py.

Keys and values of every step are kept, as those of a Transformer for each layer. A token of the whole batch, with all its steps, is one
CUDA graph, in which nobody is asked whether a deeper step is needed: in a batch someone nearly always needs it. Every few tokens the
host asks who still speaks; when half of a batch has ended, the rest moves together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu_models import Compile, FastStack, added, aligned
from universal_transformer import TranslationModel


class FastTranslator:
    """Greedy translation. `graphs`: a token of a batch is one CUDA graph, by the numbers of sentences, positions and memory rows."""

    # Keys that a graph attends over, the first of these that holds the positions so far.
    BUCKETS = (16, 32, 48, 64, 96, 128)
    # Tokens between two questions to the device whether anyone still speaks.
    ASK_EVERY = 4
    BATCH_MIN = 16

    def __init__(self, model: TranslationModel, dtype: torch.dtype, device: str, compiled: Compile, graphs: bool):
        self.config, self.device, self.dtype, self.graphs = model.config, device, dtype, graphs
        self.emb = model.emb.to(device, dtype)
        threshold = model.config["threshold"]
        self.encoder = FastStack(model.encoder, dtype, device, compiled, threshold)
        self.decoder = FastStack(model.decoder, dtype, device, compiled, threshold)
        self.choose = compiled(self._choose)

    @torch.inference_mode()
    def reserve(self, batch: int) -> None:
        """Everything a batch of so many sentences keeps between tokens, at addresses that graphs may hold."""
        device = self.device
        T, heads, d, width = self.decoder.steps_max, self.decoder.heads, self.decoder.d, self.BUCKETS[-1]
        pool = lambda *shape: torch.zeros(*shape, batch, heads, width, d // heads, dtype=self.dtype, device=device)
        self.keys, self.values, self.memory_keys, self.memory_values = pool(T), pool(T), pool(), pool()
        self.memory_mask = torch.zeros(batch, 1, 1, width, dtype=self.dtype, device=device)
        whole = lambda *shape: torch.zeros(*shape, dtype=torch.int64, device=device)
        self.token, self.position, self.said, self.depths = whole(batch), whole(1), whole(batch, width), whole(batch, width)
        self.logprobs = torch.zeros(batch, width, device=device)
        self.alive = torch.zeros(batch, dtype=torch.bool, device=device)
        self.captured: dict[tuple[int, int, int], torch.cuda.CUDAGraph] = {}

    def _choose(self, acc: Tensor) -> tuple[Tensor, Tensor]:
        logits = (self.decoder.norm("lnf", acc) @ self.emb.T)[:, 0]
        best = logits.max(-1)
        return best.indices, best.values.float() - logits.float().logsumexp(-1)

    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.emb) * math.sqrt(self.config["d_model"])

    def encode(self, sources: list[list[int]]) -> int:
        """Fills the memory of the batch; returns the rows it takes of each sentence."""
        batch, S = len(sources), aligned(max(map(len, sources)))
        ids = torch.full((batch, S), self.config["pad"])
        for row, tokens in zip(ids, sources, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        counts = torch.tensor([len(tokens) for tokens in sources]).to(self.device, non_blocking=True)
        valid = torch.arange(S, device=self.device)[None] < counts[:, None]
        mask = added(valid, self.dtype)[:, None, None]
        attend = lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(-1, -1, S, -1))
        out = self.encoder.run(self.embed(ids.to(self.device)), valid, attend, asks=True)
        memory = self.decoder.linear("xkv", self.encoder.norm("lnf", out.acc)).split(self.decoder.d, -1)
        for pool, part in zip((self.memory_keys, self.memory_values), memory, strict=True):
            pool[:batch, :, :S] = self.decoder.split(part)
        self.memory_mask[:batch] = -math.inf
        self.memory_mask[:batch, ..., :S] = mask
        return S

    def speak(self, batch: int, width: int, memory: int) -> None:
        """The next token of the first `batch` sentences, in place throughout."""
        allowed = torch.arange(width, device=self.device)[None] <= self.position
        mask = added(allowed, self.dtype)[None, None]
        places = [of_step[self.position] for of_step in self.decoder.places]

        def attend(t: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[t - 1, :batch, :, :width], self.values[t - 1, :batch, :, :width]
            keys.index_copy_(2, self.position, k)
            values.index_copy_(2, self.position, v)
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask.expand(batch, 1, 1, width))

        def remember(q: Tensor) -> Tensor:
            keys, values = self.memory_keys[:batch, :, :memory], self.memory_values[:batch, :, :memory]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=self.memory_mask[:batch, ..., :memory])

        alive = self.alive[:batch]
        s = self.decoder.begin(self.embed(self.token[:batch, None]), alive[:, None])
        for t in range(1, self.decoder.steps_max + 1):
            s = self.decoder.step(t, s, places[t][None], attend, remember)
        token, logprob = self.choose(s.acc)
        token = torch.where(alive, token, self.config["pad"])
        self.said[:batch].index_copy_(1, self.position, token[:, None])
        self.depths[:batch].index_copy_(1, self.position, s.depth.long())
        self.logprobs[:batch].index_copy_(1, self.position, logprob[:, None])
        self.token[:batch] = token
        self.alive[:batch] = alive & (token != self.config["eos"])
        self.position += 1

    def next_token(self, batch: int, width: int, memory: int) -> None:
        """Runs the graph of this shape. Capturing it speaks twice and computes nothing, so what a token changes is put back between."""
        if not self.graphs:
            return self.speak(batch, width, memory)
        shape = (batch, width, memory)
        if shape not in self.captured:
            changed = (self.token, self.alive, self.position)
            before = [tensor.clone() for tensor in changed]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.speak(*shape)
            torch.cuda.current_stream().wait_stream(side)
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
            self.captured[shape] = graph = torch.cuda.CUDAGraph()
            pool = next((other.pool() for other in self.captured.values() if other is not graph), None)
            with torch.cuda.graph(graph, pool=pool):
                self.speak(*shape)
        self.captured[shape].replay()

    @torch.inference_mode()
    def translate(self, sources: list[list[int]], limit: int) -> list[dict]:
        """{ids, logprobs, depths} of each sentence. When half of a batch has ended, the rest moves together."""
        memory = next(bucket for bucket in self.BUCKETS if bucket >= self.encode(sources))
        batch, order = len(sources), list(range(len(sources)))
        self.token[:batch], self.alive[:batch] = self.config["bos"], True
        self.position.zero_()
        self.said[:batch] = self.config["pad"]
        done: list[dict] = [{} for _ in sources]
        for position in range(limit):
            self.next_token(batch, next(bucket for bucket in self.BUCKETS if bucket > position), memory)
            if (position + 1) % self.ASK_EVERY and position + 1 < limit:
                continue
            alive = self.alive[:batch].tolist()
            if position + 1 == limit or not any(alive):
                self.collect(range(batch), order, done, position + 1)
                break
            if batch > self.BATCH_MIN and sum(alive) <= batch // 2:
                self.collect([row for row in range(batch) if not alive[row]], order, done, position + 1)
                batch, order = self.compact(alive, order, position + 1)
        return done

    def collect(self, rows: range | list[int], order: list[int], done: list[dict], length: int) -> None:
        """What the sentences in these rows have said."""
        said, logprobs, depths = (pool[:, :length].tolist() for pool in (self.said, self.logprobs, self.depths))
        for row in rows:
            count = said[row].index(self.config["eos"]) + 1 if self.config["eos"] in said[row] else length
            if not done[order[row]]:
                done[order[row]] = {"ids": said[row][:count], "logprobs": logprobs[row][:count], "depths": depths[row][:count]}

    def compact(self, alive: list[bool], order: list[int], position: int) -> tuple[int, list[int]]:
        """Moves the living to the front of a batch of half the size or less; those who have ended fill it up."""
        rows = [row for row, lives in enumerate(alive) if lives]
        batch = len(alive)
        while batch > self.BATCH_MIN and batch // 2 >= len(rows):
            batch //= 2
        rows += [row for row, lives in enumerate(alive) if not lives][: batch - len(rows)]
        index = torch.tensor(rows, device=self.device)
        for pool in (self.keys, self.values):
            for of_step in pool:
                of_step[:batch, :, :position] = of_step[index, :, :position]
        whole = (self.memory_keys, self.memory_values, self.memory_mask, self.token, self.alive, self.said, self.depths, self.logprobs)
        for pool in whole:
            pool[:batch] = pool[index]
        return batch, [order[row] for row in rows]

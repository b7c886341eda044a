"""The models as one would write them for speed in PyTorch: what the engine on a GPU is compared with (gpu_baseline.py).

The same weights as the reference in float16, halting sums in float32, and between the attention of one step and the next as few
kernels as torch.compile makes of them. Every position of a batch is computed at every step and masked afterwards, as in
universal_transformer.py. Attention is scaled_dot_product_attention outside of what is compiled: FlashAttention where the mask is
causal. Scoring asks the host after each step whether a position still runs, or never. Translation is in gpu_translator.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from universal_transformer import LanguageModel, Stack, sinusoid

# The positions of a batch are padded to a multiple of this, which matrix products and masks are aligned to.
ALIGN = 8
POSITIONS_MAX = 512

Compile = Callable[[Callable], Callable]


def as_it_is(function: Callable) -> Callable:
    return function


def by_inductor(mode: str) -> Compile:
    """torch.compile with a batch's two numbers, sentences and positions, as variables: everything is compiled once."""

    def compiled(function: Callable) -> Callable:
        faster = torch.compile(function, mode=mode)

        def call(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
            for tensor in tensors:
                if tensor.dim() >= 2:
                    torch._dynamo.maybe_mark_dynamic(tensor, [0, 2 if tensor.dim() == 4 else 1])
            return faster(*tensors)

        return call

    return compiled


def aligned(length: int) -> int:
    return math.ceil(length / ALIGN) * ALIGN


@dataclass
class Ponder:
    """What outlives a step: x, state and accumulator [B, L, d]; sums [B, L] float32; `ran`: who ran at the step before; depth [B, L]."""

    x: Tensor
    state: Tensor
    acc: Tensor
    sums: Tensor
    ran: Tensor
    run: Tensor
    depth: Tensor


class FastStack:
    """A Stack in another type of numbers. `enter`, `leave` and `recall` are what is compiled."""

    def __init__(self, stack: Stack, dtype: torch.dtype, device: str, compiled: Compile, threshold: float):
        self.w = {name: tensor.to(device, torch.float32 if "halt" in name else dtype) for name, tensor in stack.w.items()}
        self.heads, self.d, self.eps, self.threshold = stack.heads, stack.d, stack.eps, threshold
        steps = sinusoid(stack.steps.shape[0], self.d).to(device)
        # The coordinates of every step, [position, d] each: one addition instead of two.
        self.places = [(sinusoid(POSITIONS_MAX, self.d).to(device) + step).to(dtype) for step in steps]
        self.steps_max = stack.steps.shape[0] - 1
        self.last = [torch.tensor(t == self.steps_max, device=device) for t in range(self.steps_max + 1)]
        self.enter, self.leave, self.recall = compiled(self._enter), compiled(self._leave), compiled(self._recall)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"block.{name}.weight"], self.w[f"block.{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.d,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.eps)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)

    def begin(self, e: Tensor, valid: Tensor) -> Ponder:
        """Padding does not run, so no batch waits for it."""
        sums = torch.zeros(valid.shape, device=e.device)
        return Ponder(torch.zeros_like(e), e, torch.zeros_like(e), sums, valid, valid, torch.zeros_like(sums, dtype=torch.int32))

    def _enter(self, x: Tensor, state: Tensor, ran: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The step's input, the halting probability and q, k, v as one."""
        x = torch.where(ran[..., None], state + place, x)
        h = self.norm("block.ln1", x)
        logit = (h.float() * self.w["block.halt.weight"][0]).sum(-1) + self.w["block.halt.bias"]
        return x, torch.sigmoid(logit), self.linear("qkv", h)

    def _recall(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """The residual after self-attention, and what it asks the memory."""
        y = x + self.linear("o", self.join(attended))
        return y, self.linear("xq", self.norm("block.lnx", y))

    def _leave(
        self, y: Tensor, attended: Tensor, p: Tensor, state: Tensor, acc: Tensor, sums: Tensor, run: Tensor, depth: Tensor, last: Tensor
    ) -> tuple[Tensor, ...]:
        """The rest of the block, from the newest attention on, and the halting update."""
        name = "xo" if "block.xo.weight" in self.w else "o"
        y = y + self.linear(name, self.join(attended))
        z = y + self.linear("f2", torch.relu(self.linear("f1", self.norm("block.ln2", y))))
        halted = run & ((sums + p > self.threshold) | last)
        runs = run & ~halted
        weight = p * runs
        sums = sums + weight
        weight = weight + halted * (1 - sums)
        acc = acc + (weight[..., None] * z).to(acc.dtype)
        return torch.where(run[..., None], z, state), acc, sums, runs, depth + run

    def step(self, t: int, s: Ponder, place: Tensor, attend: Callable, remember: Callable | None = None) -> Ponder:
        """attend(t, q, k, v) and, in a decoder, remember(q): both [B, heads, L, d / heads]."""
        x, p, qkv = self.enter(s.x, s.state, s.ran, place)
        before, attended = x, attend(t, *(self.split(part) for part in qkv.split(self.d, -1)))
        if remember is not None:
            before, query = self.recall(x, attended)
            attended = remember(self.split(query))
        state, acc, sums, runs, depth = self.leave(before, attended, p, s.state, s.acc, s.sums, s.run, s.depth, self.last[t])
        return Ponder(x, state, acc, sums, s.run, runs, depth)

    def run(self, e: Tensor, valid: Tensor, attend: Callable, asks: bool) -> Ponder:
        """All steps; with `asks` those until the last position has halted."""
        s = self.begin(e, valid)
        for t in range(1, self.steps_max + 1):
            s = self.step(t, s, self.places[t][None, : e.shape[1]], attend)
            if asks and not s.run.any():
                break
        return s


def causal(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def added(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, -math.inf)


class FastLanguageModel:
    def __init__(self, model: LanguageModel, dtype: torch.dtype, device: str, compiled: Compile):
        self.config, self.device = model.config, device
        self.emb = model.emb.to(device, dtype)
        self.stack = FastStack(model.stack, dtype, device, compiled, model.config["threshold"])
        self.finish = compiled(self._finish)

    def _finish(self, acc: Tensor, targets: Tensor) -> Tensor:
        logits = self.stack.norm("lnf", acc) @ self.emb.T
        return logits.gather(-1, targets[..., None]).squeeze(-1).float() - logits.float().logsumexp(-1)

    def pad(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Targets [B, L] and their number [B], on the host."""
        out = torch.zeros(len(ids), aligned(max(map(len, ids))), dtype=torch.int64)
        for row, tokens in zip(out, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return out, torch.tensor([len(tokens) for tokens in ids])

    @torch.inference_mode()
    def score(self, targets: Tensor, counts: Tensor, asks: bool) -> tuple[Tensor, Tensor]:
        """Log-probabilities and depths [B, L]; what lies behind a window's tokens means nothing, and its depth is 0."""
        targets, counts = targets.to(self.device, non_blocking=True), counts.to(self.device, non_blocking=True)
        valid = torch.arange(targets.shape[1], device=self.device)[None] < counts[:, None]
        ids = torch.cat([torch.full_like(targets[:, :1], self.config["bos"]), targets[:, :-1]], 1)
        out = self.stack.run(F.embedding(ids, self.emb) * math.sqrt(self.config["d_model"]), valid, causal, asks)
        return self.finish(out.acc, targets), out.depth

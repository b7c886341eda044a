"""The Universal Transformer with Adaptive Computation Time, written to be read: the reference of every parity test.

One block is applied at most `max_steps` times; each position leaves when its halting sum passes the threshold
(Dehghani et al. 2018, arXiv 1807.03819; Graves 2016, arXiv 1603.08983). The options of the checkpoints served here
(`freeze`, `accumulated`, `remainder`, pre-norm) are the ones written out; `load` refuses any other.

Shapes: B sequences, L positions, d width, T steps, V vocabulary. All arithmetic is float32.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

# What the code below computes. A checkpoint that states another value needs other code, so it is refused.
SUPPORTED = {
    "family": "universal-transformer",
    "halted_state": "freeze",
    "act_type": "accumulated",
    "forced_stop": "remainder",
    "norm": "pre",
    "activation": "relu",
    "position_signal": "sinusoidal-interleaved",
    "step_signal": "sinusoidal-interleaved",
    "tied_output": True,
    "embedding_scale": "sqrt(d_model)",
}


@dataclass(frozen=True)
class Budget:
    """What a request may spend. `max_steps` m: step m is the last. `min_steps`: no position halts before it.
    `threshold` in (0, 1]: the halting sum above which a position leaves."""

    max_steps: int
    min_steps: int = 1
    threshold: float = 0.99


@dataclass
class Ponder:
    """Output of one stack: `states` [B, L, d] after the final norm, `depth` [B, L] int64 (N), `remainder` [B, L] (R), and
    `margin` [B, L]: how near a halting sum came to the threshold in any decision (parity tests skip ties)."""

    states: Tensor
    depth: Tensor
    remainder: Tensor
    margin: Tensor


def sinusoid(count: int, d: int) -> Tensor:
    """C(i)[2j] = sin(i / 10000^(2j/d)), C(i)[2j+1] = cos(the same), for i = 0 ... count-1; float32 [count, d]."""
    angle = torch.arange(count, dtype=torch.float64)[:, None] / 10000 ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(count, d).float()


class Stack:
    """One recurrent stack (language model, encoder or decoder) over the tensors named `<prefix>block.*`, `<prefix>lnf.*`."""

    def __init__(self, weights: dict[str, Tensor], prefix: str, config: dict):
        self.w = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix + "block.") or k.startswith(prefix + "lnf.")}
        self.heads = config["heads"]
        self.d = config["d_model"]
        self.eps = config["layer_norm_eps"]
        self.steps = sinusoid(config["max_steps"] + 1, self.d)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"block.{name}.weight"], self.w[f"block.{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.d,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.eps)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d_head)) v per head; q [B, L, d], k and v [B, S, d], mask [B or 1, L or 1, S] True where allowed."""
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        out = F.scaled_dot_product_attention(split(q), split(k), split(v), attn_mask=mask[:, None])
        return out.transpose(1, 2).flatten(-2)

    def run(self, e: Tensor, mask: Tensor, budget: Budget, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> Ponder:
        """e [B, L, d] scaled embeddings; mask [B or 1, L or 1, L]; memory [B, S, d] for a decoder. Every position is
        computed at every step and masked afterwards: plain, and what a server without compaction has to do."""
        B, L, d = e.shape
        position = sinusoid(L, d).to(e)
        state, x, acc = e, torch.zeros_like(e), torch.zeros_like(e)
        prev = run = torch.ones(B, L, dtype=torch.bool)
        H = torch.zeros(B, L)
        R = torch.zeros(B, L)
        N = torch.zeros(B, L, dtype=torch.int64)
        margin = torch.full((B, L), math.inf)
        if memory is not None:
            mk, mv = self.linear("xkv", memory).split(d, -1)
        for t in range(1, budget.max_steps + 1):
            # A position that halted at step t-1 has its input renewed once more; then it is frozen for good.
            x = torch.where(prev[..., None], state + position + self.steps[t], x)
            h = self.norm("block.ln1", x)
            p = torch.sigmoid(self.linear("halt", h).squeeze(-1))
            q, k, v = self.linear("qkv", h).split(d, -1)
            y = x + self.linear("o", self.attention(q, k, v, mask))
            if memory is not None:
                xq = self.linear("xq", self.norm("block.lnx", y))
                y = y + self.linear("xo", self.attention(xq, mk, mv, memory_mask))
            z = y + self.linear("f2", torch.relu(self.linear("f1", self.norm("block.ln2", y))))
            if t < budget.min_steps:
                p = torch.minimum(p, budget.threshold - H)
            passed = (H + p > budget.threshold) if t >= budget.min_steps else torch.zeros_like(run)
            if t < budget.max_steps and t >= budget.min_steps:
                margin = torch.where(run, torch.minimum(margin, (H + p - budget.threshold).abs()), margin)
            prev = run
            halted = run & (passed | (t == budget.max_steps))
            run = run & ~halted
            H = H + p * run
            r = halted * (1 - H)
            H = H + r
            R = R + r
            N = N + prev
            acc = acc + (p * run + r)[..., None] * z
            state = torch.where(prev[..., None], z, state)
            if not run.any():
                break
        return Ponder(self.norm("lnf", acc), N, R, margin)


def load(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """Reads `config.json` and `model.safetensors` (float32 tensors). Raises ValueError naming what is missing, unsupported or wrong."""
    for file in ("config.json", "model.safetensors", "tokenizer.json", "golden.json"):
        if not (folder / file).is_file():
            raise ValueError(f"{folder.name} has no {file}: docs/your-model.md says what belongs into a checkpoint")
    config = json.loads((folder / "config.json").read_text())
    for key, value in SUPPORTED.items():
        if config.get(key) != value:
            raise ValueError(f"{folder.name}: {key} is {config.get(key)!r}, this exporter computes {value!r}")
    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    for name, shape in expected(config).items():
        if name not in weights:
            raise ValueError(f"{folder.name}: model.safetensors has no tensor {name}")
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"{folder.name}: {name} is {list(weights[name].shape)}, {list(shape)} is expected")
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"{folder.name}: {name} holds NaN or infinity")
    return config, weights


def expected(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the model computes with."""
    d, ff = config["d_model"], config["d_ff"]
    out: dict[str, tuple[int, ...]] = {"emb.weight": (config["vocab"], d)}
    for prefix in ("",) if config["task"] == "lm" else ("enc.", "dec."):
        matrices = {"qkv": (3 * d, d), "o": (d, d), "f1": (ff, d), "f2": (d, ff), "halt": (1, d)}
        norms = ["block.ln1", "block.ln2", "lnf"]
        if prefix == "dec.":
            matrices |= {"xq": (d, d), "xkv": (2 * d, d), "xo": (d, d)}
            norms.append("block.lnx")
        for name, shape in matrices.items():
            out |= {f"{prefix}block.{name}.weight": shape, f"{prefix}block.{name}.bias": shape[:1]}
        out |= {f"{prefix}{name}.{part}": (d,) for name in norms for part in ("weight", "bias")}
    return out


class LanguageModel:
    """Scores text: log p(t_i | <s> t_1 ... t_{i-1})."""

    def __init__(self, config: dict, weights: dict[str, Tensor]):
        self.config = config
        self.emb = weights["emb.weight"]
        self.stack = Stack(weights, "", config)

    def budget(self, **changes) -> Budget:
        return Budget(**{"max_steps": self.config["max_steps"], "threshold": self.config["threshold"], **changes})

    @torch.inference_mode()
    def score(self, ids: list[list[int]], budget: Budget | None = None) -> list[tuple[Tensor, Ponder]]:
        """ids: B lists of 1 to context-1 tokens, without <s>. Returns per list the log-probabilities [n, V] of the token at
        each place and the ponder of the position that predicts it. Padding sits at the end, which a causal mask never sees."""
        L = max(map(len, ids))
        inputs = torch.full((len(ids), L), self.config["bos"])
        for b, tokens in enumerate(ids):
            inputs[b, 1 : len(tokens)] = torch.tensor(tokens[:-1], dtype=torch.int64)
        causal = torch.ones(L, L, dtype=torch.bool).tril()[None]
        out = self.stack.run(F.embedding(inputs, self.emb) * math.sqrt(self.config["d_model"]), causal, budget or self.budget())
        results = []
        for b, tokens in enumerate(ids):
            n = len(tokens)
            logprobs = F.log_softmax(out.states[b, :n] @ self.emb.T, -1)
            results.append((logprobs, Ponder(out.states[b, :n], out.depth[b, :n], out.remainder[b, :n], out.margin[b, :n])))
        return results

    @torch.inference_mode()
    def greedy(self, prompts: list[list[int]], new_tokens: int, budget: Budget | None = None) -> list[Continuation]:
        """The best token again and again, the whole text recomputed for each: the definition that cached generation is compared with.
        prompts: lists of 0 or more tokens, without <s>; with the new ones they fit the context."""
        out = [Continuation([], [], [], [], math.inf) for _ in prompts]
        for _ in range(new_tokens):
            # Whatever stands in the last place is not read: it is what the position before predicts.
            texts = [[*prompt, *said.ids, 0] for prompt, said in zip(prompts, out, strict=True)]
            for said, (logprobs, ponder) in zip(out, self.score(texts, budget), strict=True):
                best = logprobs[-1].topk(2)
                said.ids.append(int(best.indices[0]))
                said.logprobs.append(float(best.values[0]))
                said.gaps.append(float(best.values[0] - best.values[1]))
                said.depth.append(int(ponder.depth[-1]))
                said.margin = min(said.margin, float(ponder.margin.min()))
        return out


@dataclass
class Continuation:
    """New tokens [n] of one prompt, their log-probabilities (nats) and depths. `gaps` [n]: how far the best token led the second;
    `margin`: how near any halting sum, the prompt's included, came to its threshold."""

    ids: list[int]
    logprobs: list[float]
    depth: list[int]
    gaps: list[float]
    margin: float


@dataclass
class Translation:
    """Greedy output: `ids` [n] ending with </s> unless cut, their `logprobs` (nats) and the decoder's and encoder's depths.
    `gaps` [n]: how far the best token led the second; `margin`: how near any halting sum came to its threshold."""

    ids: list[int]
    logprobs: list[float]
    decoder_depth: list[int]
    encoder_depth: list[int]
    gaps: list[float]
    margin: float


class TranslationModel:
    """Encoder and decoder, ACT in both; one embedding for source, target and output."""

    def __init__(self, config: dict, weights: dict[str, Tensor]):
        self.config = config
        self.emb = weights["emb.weight"]
        self.encoder = Stack(weights, "enc.", config)
        self.decoder = Stack(weights, "dec.", config)

    def budget(self, **changes) -> Budget:
        return Budget(**{"max_steps": self.config["max_steps"], "threshold": self.config["threshold"], **changes})

    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.emb) * math.sqrt(self.config["d_model"])

    @torch.inference_mode()
    def encode(self, sources: list[list[int]], budget: Budget | None = None) -> tuple[Ponder, Tensor]:
        """sources: ids ending with </s>. Returns the encoder's output and the mask [B, 1, S] of what is no padding."""
        S = max(map(len, sources))
        ids = torch.full((len(sources), S), self.config["pad"])
        for b, tokens in enumerate(sources):
            ids[b, : len(tokens)] = torch.tensor(tokens)
        mask = torch.arange(S)[None, None, :] < torch.tensor([len(s) for s in sources])[:, None, None]
        return self.encoder.run(self.embed(ids), mask, budget or self.budget()), mask

    @torch.inference_mode()
    def decode(self, prefix: Tensor, memory: Tensor, memory_mask: Tensor, budget: Budget | None = None) -> tuple[Tensor, Ponder]:
        """prefix [B, L] target ids from <s> on -> log-probabilities [B, L, V] of the next token at each place, and the ponder."""
        L = prefix.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool).tril()[None]
        out = self.decoder.run(self.embed(prefix), causal, budget or self.budget(), memory, memory_mask)
        return F.log_softmax(out.states @ self.emb.T, -1), out

    @torch.inference_mode()
    def greedy(
        self, sources: list[list[int]], max_new_tokens: int = 127, budget: Budget | None = None, encoder_budget: Budget | None = None
    ) -> list[Translation]:
        """Recomputes the whole prefix for every token: the definition that cached decoding is compared with."""
        ponder, mask = self.encode(sources, encoder_budget)
        bos, eos = self.config["bos"], self.config["eos"]
        out = []
        for b, source in enumerate(sources):
            out.append(Translation([], [], [], ponder.depth[b, : len(source)].tolist(), [], ponder.margin[b, : len(source)].min().item()))
        prefix = torch.full((len(sources), 1), bos)
        running = list(range(len(sources)))
        while running and prefix.shape[1] <= max_new_tokens:
            logprobs, depth = self.decode(prefix[running], ponder.states[running], mask[running], budget)
            best = logprobs[:, -1].topk(2, -1)
            nxt = torch.full((len(sources), 1), self.config["pad"])
            for row, b in enumerate(running):
                token = int(best.indices[row, 0])
                nxt[b, 0] = token
                out[b].ids.append(token)
                out[b].logprobs.append(float(best.values[row, 0]))
                out[b].gaps.append(float(best.values[row, 0] - best.values[row, 1]))
                out[b].decoder_depth.append(int(depth.depth[row, -1]))
                out[b].margin = min(out[b].margin, float(depth.margin[row, -1]))
            prefix = torch.cat([prefix, nxt], 1)
            running = [b for b in running if out[b].ids[-1] != eos]
        return out

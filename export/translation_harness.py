"""What the measurements of translation share beside harness.py: evaluation sets in tokens, the reference model of a package, and
the engine as a child process.

The engine is driven with token ids through node/translate-driver.mjs, not over HTTP: what is measured is the model and the loop.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from tokenizers import Tokenizer

from export import read_constants
from harness import ROOT, SHARED, model_folder
from translation_pytorch import MAX_NEW_TOKENS
from universal_transformer import TranslationModel
from universal_transformer_onnx import reference_weights

MODEL = "ut-mt-ende"
NODE = ROOT / "export" / "node"

# What the reports call a set, and its files in shared/eval/ende.
TEST_SETS = {"tatoeba_test": "tatoeba_test", "multi30k_2016": "multi30k_test_2016_flickr", "newstest2014": "newstest2014"}
DEV_SETS = {"tatoeba_valid": "tatoeba_valid", "multi30k_val": "multi30k_val", "newstest2013": "newstest2013"}


@dataclass(frozen=True)
class Pairs:
    """The first sentences of a set. `ids`: source tokens with </s>; `cut`: how many sources were longer than the model takes."""

    name: str
    sources: list[str]
    references: list[str]
    ids: list[list[int]]
    cut: int


def read_lines(path: Path) -> list[str]:
    """Split at line feeds only: other separators of Unicode are part of a sentence."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_pairs(name: str, count: int | None = None) -> Pairs:
    folder, file = SHARED / "eval" / "ende", {**TEST_SETS, **DEV_SETS}[name]
    sources, references = (read_lines(folder / f"{file}.{language}")[:count] for language in ("en", "de"))
    if len(sources) != len(references):
        raise ValueError(f"{name}: {len(sources)} sources and {len(references)} references")
    ids, cut = encode(sources)
    return Pairs(name, sources, references, ids, cut)


def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(model_folder(MODEL) / "tokenizer.json"))


def encode(sources: list[str]) -> tuple[list[list[int]], int]:
    """Token ids with </s>, cut at the model's positions, and how many were cut."""
    config = translation_config(model_folder(MODEL))
    encoded = [e.ids for e in tokenizer().encode_batch(sources, add_special_tokens=False)]
    room = config["max_len"] - 1
    return [[*ids[:room], config["eos"]] for ids in encoded], sum(len(ids) > room for ids in encoded)


def translation_config(folder: Path) -> dict[str, Any]:
    """What the reference model has to know, from the package alone, in the checkpoint's names."""
    manifest = json.loads((folder / "manifest.json").read_text())
    step = onnx.load(folder / manifest["precisions"]["float32"]["decoder_step"]["file"], load_external_data=False)
    [epsilon] = {a.f for node in step.graph.node if node.op_type == "Normalize" for a in node.attribute}
    shape = {**manifest["dimensions"], "max_len": manifest["dimensions"]["context"]}
    return {"task": "translation", **shape, **manifest["halting"], **manifest["tokens"], "layer_norm_eps": epsilon}


def reference_translation(folder: Path, kind: type[TranslationModel] = TranslationModel) -> TranslationModel:
    """PyTorch on the dequantised weights of a package."""
    config = translation_config(folder)
    return kind(config, reference_weights(read_constants(folder), config))


class Engine:
    """The engine behind node/translate-driver.mjs; use as a context manager. `options`: those of `ponder-serve serve`.

    Raises RuntimeError when the driver ends before it has answered; its error is then on this process's standard error."""

    def __init__(self, precision: str, threads: int, *options: str, models: tuple[str, ...] = (MODEL,)):
        script, waits = str(NODE / "translate-driver.mjs"), ("--queue-wait-ms-max", "3600000")
        chosen = ("--model-list", ",".join(models), "--precision", precision, "--threads", str(threads))
        self.command = ["node", script, *waits, *chosen, *options]

    def __enter__(self) -> Engine:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.info = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended without an answer")
        return json.loads(line)

    def ask(self, requests: list[dict[str, Any]], clients: int | None = None) -> dict[str, Any]:
        """{results, seconds, stages}; see the driver. `clients`: requests in flight at a time, all of them by default."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"requests": requests, "clients": clients or len(requests)}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def translate(self, ids: list[list[int]], clients: int | None = None, **fields: Any) -> list[dict[str, Any]]:
        return self.ask([{"ids": source, "max_new_tokens": MAX_NEW_TOKENS, **fields} for source in ids], clients)["results"]

"""What every measurement shares: where things lie, the evaluation text in tokens, a running server, and the facts of the machine.

The server is the shipped one, started as a child process on a free port and asked over HTTP with token ids: what is measured is
what a client gets.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from tokenizers import Tokenizer

from export import read_constants
from universal_transformer import LanguageModel
from universal_transformer_onnx import reference_weights

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PONDER_SHARED", ROOT.parent / "shared"))
MAIN = ROOT / "dist" / "src" / "main.js"

REQUEST_SECONDS_MAX = 600
READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30


def checkpoint_folder(name: str) -> Path:
    return SHARED / "checkpoints" / name


def model_folder(name: str) -> Path:
    return ROOT / "models" / name


@dataclass(frozen=True)
class Text:
    """A text in tokens. `bytes`: of its UTF-8."""

    name: str
    ids: list[int]
    bytes: int


def read_text(name: str, tokenizer_file: Path, bytes_max: int | None = None) -> Text:
    """The evaluation text `name`, cut at the last whole character within `bytes_max`. Raises ValueError if the tokens do not spell it."""
    data = (SHARED / "eval" / "text" / name).read_bytes()
    text = data[:bytes_max].decode("utf-8", errors="strict" if bytes_max is None else "ignore")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if tokenizer.decode(ids, skip_special_tokens=False) != text:
        raise ValueError(f"{name}: the tokens do not spell the text")
    return Text(name, ids, len(text.encode()))


def package_config(folder: Path) -> dict[str, Any]:
    """What the reference model has to know, from the package alone, in the checkpoint's names."""
    manifest = json.loads((folder / "manifest.json").read_text())
    step = onnx.load(folder / manifest["precisions"]["float32"]["step"]["file"], load_external_data=False)
    [epsilon] = {a.f for node in step.graph.node if node.op_type == "Normalize" for a in node.attribute}
    return {"task": "lm", **manifest["dimensions"], **manifest["halting"], "bos": manifest["tokens"]["bos"], "layer_norm_eps": epsilon}


def reference_model(folder: Path) -> LanguageModel:
    """PyTorch on the dequantised weights of a package: what parity is measured against."""
    config = package_config(folder)
    return LanguageModel(config, reference_weights(read_constants(folder), config))


def windows(ids: list, length: int) -> list[list]:
    """Consecutive windows without overlap; the last one may be shorter."""
    return [ids[i : i + length] for i in range(0, len(ids), length)]


class Server:
    """`ponder-serve serve` as a child process; use as a context manager.

    Raises RuntimeError when it does not come up, and when it answers anything but 200: no caller here sends a bad request."""

    def __init__(self, precision: str, model: str, *options: str):
        self.model, self.precision = model, precision
        self.command = ["node", str(MAIN), "serve", "--port", "0", "--precision", precision, "--model-list", model, *options]
        self.url = ""

    def __enter__(self) -> Server:
        # Variables of the caller, such as PONDER_SHARED, are no options of the server, which refuses what it does not know.
        env = {k: v for k, v in os.environ.items() if not k.startswith("PONDER_")}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        self.output: list[str] = []
        self.ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self.ready.wait(READY_SECONDS_MAX) or not self.url:
            self.__exit__()
            raise RuntimeError(f"{' '.join(self.command)} did not start: {''.join(self.output[-5:])}")
        return self

    def _read(self) -> None:
        """Drains the log for as long as the server lives: a full pipe would stop it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output = [*self.output[-99:], line]
            found = re.search(r"ready at (http://[^\s,]+)", line)
            if found:
                self.url = found[1]
                self.ready.set()
        self.ready.set()

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def score(self, ids: list[int] | list[list[int]], **fields: Any) -> dict[str, Any]:
        """The reply of POST /v1/score for one list of token ids, or for several."""
        body = json.dumps({"model": self.model, "input": ids, **fields}).encode()
        request = urllib.request.Request(f"{self.url}/v1/score", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS_MAX) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"/v1/score answered {error.code}: {error.read().decode()}") from error


def machine() -> dict[str, Any]:
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}", "torch": torch.__version__}


def commit() -> str:
    """The commit that was measured, with `+` when tracked files differ from it."""
    git = lambda *arguments: subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "models", "export/*.py")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []

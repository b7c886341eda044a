"""The example of docs/your-model.md: a few steps of it make a checkpoint that exports, and whose package means the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from harness import ROOT, reference_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "tiny-sums"
    script = ROOT / "export" / "train" / "tiny_universal_transformer.py"
    subprocess.run([sys.executable, script, out, "--steps", "30"], check=True, stdout=subprocess.DEVNULL)
    return out


def export(checkpoint: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "export" / "export.py", checkpoint, target], capture_output=True, text=True)


def test_thirty_steps_learn_something_and_the_package_means_the_same(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["trained"]["steps"] == 30
    assert config["measured"]["bits_per_byte"] < 3  # an untrained model of this vocabulary needs more than 4
    done = export(checkpoint, tmp_path / "tiny-sums")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "tiny-sums" / "manifest.json").read_text())
    assert manifest["provenance"]["licence"] == "Apache-2.0"
    model = reference_model(tmp_path / "tiny-sums")
    golden = json.loads((tmp_path / "tiny-sums" / "golden.json").read_text())
    for case in golden:
        [(logprobs, _)] = model.score([case["ids"]])
        chosen = logprobs.gather(1, torch.tensor(case["ids"])[:, None]).squeeze(1)
        assert chosen.tolist() == pytest.approx(case["logprobs"], abs=1e-4)


def test_its_tokenizer_reads_any_text(checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    for text in ("nineteen plus two is twenty-one.", "Straße 42 \U0001f600\n\0"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert [tokenizer.token_to_id(name) for name in ("<pad>", "<s>", "</s>")] == [0, 1, 2]


def spoilt(checkpoint: Path, folder: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy whose tensors are replaced, or removed where None."""
    shutil.copytree(checkpoint, folder)
    weights = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ({"block.qkv.weight": None}, "model.safetensors has no tensor block.qkv.weight"),
        ({"block.f1.bias": torch.zeros(7)}, "block.f1.bias is [7], [128] is expected"),
        ({"lnf.weight": torch.full((64,), torch.nan)}, "lnf.weight holds NaN or infinity"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_is_written(checkpoint: Path, tmp_path: Path, spoil: dict, says: str) -> None:
    done = export(spoilt(checkpoint, tmp_path / "spoilt", **spoil), tmp_path / "package")
    assert done.returncode != 0 and says in done.stderr
    assert not (tmp_path / "package").exists()


def test_a_missing_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = spoilt(checkpoint, tmp_path / "spoilt")
    (folder / "tokenizer.json").unlink()
    done = export(folder, tmp_path / "package")
    assert done.returncode != 0 and "spoilt has no tokenizer.json" in done.stderr
    assert not (tmp_path / "package").exists()

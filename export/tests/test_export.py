"""A package is a function of its checkpoint, and means what the checkpoint means."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

import universal_transformer_onnx as ut
from export import read_constants
from harness import ROOT, checkpoint_folder, model_folder, reference_model
from universal_transformer import LanguageModel, TranslationModel, load

MODEL = "ut-lm-en"


def run_export(checkpoint: Path, target: Path) -> Path:
    """In a process of its own, because an export sets PyTorch's number of threads."""
    subprocess.run([sys.executable, ROOT / "export" / "export.py", checkpoint, target], check=True)
    return target


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_export(checkpoint, tmp_path_factory.mktemp("first") / MODEL)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_twice_the_same_bytes(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    assert contents(run_export(checkpoint, tmp_path / MODEL)) == contents(exported)


def test_hashes(exported: Path) -> None:
    files = json.loads((exported / "manifest.json").read_text())["files"]
    data = contents(exported)
    data.pop("manifest.json")
    assert files == {name: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for name, d in data.items()}


def test_the_committed_package_is_this_export(exported: Path) -> None:
    """To the byte where nothing is summed. The sums, a few biases and the golden figures, may end in another bit on another CPU."""
    committed = model_folder(MODEL)
    assert {path.name for path in committed.iterdir()} == {path.name for path in exported.iterdir()}
    for name in [path.name for path in exported.glob("*.onnx")] + ["tokenizer.json"]:
        assert (committed / name).read_bytes() == (exported / name).read_bytes(), name
    new, old = read_constants(exported), read_constants(committed)
    assert new.keys() == old.keys()
    for name, value in new.items():
        tolerance = 0 if value.dtype == torch.int8 else 1e-6
        torch.testing.assert_close(old[name], value, atol=tolerance, rtol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
    new_golden, old_golden = (json.loads((folder / "golden.json").read_text()) for folder in (exported, committed))
    for a, b in zip(new_golden, old_golden, strict=True):
        assert (a["text"], a["ids"], a["depth"]) == (b["text"], b["ids"], b["depth"])
        assert a["logprobs"] == pytest.approx(b["logprobs"], abs=2e-4)
    new_manifest, old_manifest = (json.loads((folder / "manifest.json").read_text()) for folder in (exported, committed))
    assert old_manifest["quality"]["checkpoint"] == new_manifest["quality"]["checkpoint"]
    for manifest in (new_manifest, old_manifest):
        del manifest["quality"]
        for name in ("weights.bin", "golden.json"):
            del manifest["files"][name]
    assert new_manifest == old_manifest


def test_weights_are_stored_once(exported: Path) -> None:
    places: dict[str, set[tuple[str, ...]]] = {}
    for path in exported.glob("*.onnx"):
        for init in onnx.load(path, load_external_data=False).graph.initializer:
            places.setdefault(init.name, set()).add(tuple(entry.value for entry in init.external_data))
    assert all(len(p) == 1 for p in places.values())
    constants = read_constants(exported)
    assert set(constants) == set(places)
    held = sum(t.numel() * t.element_size() for t in constants.values())
    size = (exported / "weights.bin").stat().st_size
    assert held <= size < held + 64 * len(constants)


def test_reference_weights_mean_the_constants(exported: Path, checkpoint: Path) -> None:
    """Every checkpoint tensor comes back, within half a quantisation step of the folded one."""
    config, weights = load(checkpoint)
    back = ut.reference_weights(read_constants(exported), config)
    assert back.keys() == weights.keys()
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in weights.items()}
    folded = {**weights, **ut.unfold(ut.fold(weights, "", config), "", config)}
    for name, value in folded.items():
        step = value.abs().amax() / 60  # a scale is at most 2/127 of the largest weight of its column
        assert (back[name] - value).abs().max() <= step / 2 + 1e-6, name


def test_folding_changes_no_function(checkpoint: Path) -> None:
    config, weights = load(checkpoint)
    folded = {**weights, **ut.unfold(ut.fold(weights, "", config), "", config)}
    assert any(not torch.equal(folded[name], weights[name]) for name in weights)
    ids = [case["ids"][:96] for case in json.loads((checkpoint / "golden.json").read_text())]
    for (a, pa), (b, pb) in zip(LanguageModel(config, weights).score(ids), LanguageModel(config, folded).score(ids), strict=True):
        clear = (pa.margin > 1e-5).cumprod(0).bool()  # up to the first tie
        assert torch.equal(pa.depth[clear], pb.depth[clear])
        torch.testing.assert_close(a[clear], b[clear], atol=5e-5, rtol=0)


def test_folding_of_a_decoder(shared: Path) -> None:
    """The translation model's stacks, through its own queries to the memory as well."""
    config, weights = load(checkpoint_folder("ut-mt-ende"))
    folded = dict(weights)
    for prefix in ("enc.", "dec."):
        folded |= ut.unfold(ut.fold(weights, prefix, config), prefix, config)
    case = json.loads((checkpoint_folder("ut-mt-ende") / "golden.json").read_text())[0]
    source, target = [case["source_ids"]], torch.tensor([[config["bos"], *case["ids"]]])
    results = []
    for model in (TranslationModel(config, weights), TranslationModel(config, folded)):
        memory, mask = model.encode(source)
        results.append((memory, *model.decode(target, memory.states, mask)))
    (memory_a, a, pa), (memory_b, b, pb) = results
    assert torch.equal(memory_a.depth, memory_b.depth) and torch.equal(pa.depth, pb.depth)
    torch.testing.assert_close(a, b, atol=5e-5, rtol=0)


def test_an_unsupported_option_stops_the_export(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "halted_state": "copy"}))
    target = tmp_path / "package"
    done = subprocess.run([sys.executable, ROOT / "export" / "export.py", tmp_path, target], capture_output=True, text=True)
    assert done.returncode != 0
    assert "halted_state is 'copy', this exporter computes 'freeze'" in done.stderr
    assert not target.exists()


def test_reference_model_reproduces_the_packages_golden_file(exported: Path) -> None:
    model = reference_model(exported)
    for case in json.loads((exported / "golden.json").read_text()):
        [(logprobs, ponder)] = model.score([case["ids"]])
        chosen = logprobs.gather(1, torch.tensor(case["ids"])[:, None]).squeeze(1)
        assert ponder.depth.tolist() == case["depth"]
        assert chosen.tolist() == pytest.approx(case["logprobs"], abs=1e-4)

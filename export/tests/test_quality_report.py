"""Quality over a little text through the real server, into a report and a manifest; and the loop that speed is compared with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import quality
from harness import ROOT, model_folder
from test_parity import MODEL, built  # noqa: F401  a fixture


def run(*arguments: object) -> str:
    return subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def test_quality_of_a_little_text(shared: Path, built: None, tmp_path: Path) -> None:  # noqa: F811
    report = tmp_path / "report.json"
    command = (ROOT / "export" / "quality.py", "--bytes", 4000, "--report", report, "--sets")
    assert "| wikipedia.test.txt | 4,000 | server int8 |" in run(*command, "wikipedia.test.txt")
    run(*command, "wikitext2.test.raw")
    sets = json.loads(report.read_text())["sets"]
    assert set(sets) == {"wikipedia.test.txt", "wikitext2.test.raw"}  # the second run added to the first
    for entry in sets.values():
        assert entry["bytes"] == 4000 and entry["bytes_max"] == 4000
        for arithmetic in ("float32", "int8"):
            assert entry[arithmetic]["bits_per_byte"] == pytest.approx(entry["pytorch"]["bits_per_byte"], rel=0.01)
            assert entry[arithmetic]["mean_depth"] == pytest.approx(entry["pytorch"]["mean_depth"], rel=0.02)


def test_figures_go_into_the_manifest_and_nothing_else_changes(tmp_path: Path) -> None:
    shutil.copyfile(model_folder(MODEL) / "manifest.json", tmp_path / "manifest.json")
    before = json.loads((tmp_path / "manifest.json").read_text())
    figures = {"bits_per_byte": 1.5}
    entry = {"commit": "c", "bytes": 8, "tokens": 2, "pytorch": figures, "float32": figures, "int8": figures}
    quality.write_manifest(tmp_path, {"b": entry, "a": entry})
    once = (tmp_path / "manifest.json").read_bytes()
    quality.write_manifest(tmp_path, {"a": entry, "b": entry})
    assert (tmp_path / "manifest.json").read_bytes() == once
    after = json.loads(once)
    measured = after["quality"].pop("measured")
    before["quality"].pop("measured", None)
    assert after == before
    assert list(measured["sets"]) == ["a", "b"]
    assert measured["sets"]["a"].keys() == {"bytes", "tokens", "pytorch", "float32", "int8"}


def test_the_committed_manifest_holds_the_committed_report() -> None:
    manifest = json.loads((model_folder(MODEL) / "manifest.json").read_text())
    if "measured" not in manifest["quality"]:
        pytest.skip("the package was exported anew and not measured since: run export/quality.py --write")
    report = json.loads((ROOT / "export" / "reports" / f"quality-{MODEL}.json").read_text())
    # The graphs for a GPU came later and say nothing of what was measured here: the rest is what it was.
    files = {name: entry["sha256"] for name, entry in manifest["files"].items() if ".float16." not in name}
    assert report["files"] == files
    for name, entry in manifest["quality"]["measured"]["sets"].items():
        assert entry == {key: report["sets"][name][key] for key in entry}


def test_compare_loop(tmp_path: Path) -> None:
    sequences = tmp_path / "sequences.json"
    sequences.write_text(json.dumps([[430, 2018, 280], [430]]))
    out = run(ROOT / "export" / "compare_loop.py", "--package", model_folder(MODEL), "--sequences", sequences, "--batch", 2, "--threads", 1)
    reply = json.loads(out.strip().splitlines()[-1])
    golden = json.loads((model_folder(MODEL) / "golden.json").read_text())[1]
    assert golden["ids"][:3] == [430, 2018, 280]
    assert (reply["tokens"], reply["threads"], reply["repeats"]) == (4, 1, 1)
    assert reply["position_steps"] == sum(golden["depth"][:3]) + golden["depth"][0]
    assert reply["logprob"] == pytest.approx(sum(golden["logprobs"][:3]) + golden["logprobs"][0], abs=1e-3)
    assert reply["seconds"] > 0

"""Makes the graphs of a Universal Transformer's package anew over the weights that are in it: `python export/renew_graphs.py models/NAME`.

For a change of graphs alone. An export on another machine may fold weights to another last bit, and everything that was measured on the
package would be of other weights.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import universal_transformer_onnx as ut
from export import read_constants, read_manifest, write_manifest, write_package
from harness import package_config
from translation_harness import translation_config


def renew(package: Path) -> list[str]:
    """Returns the names of graphs that changed, came or went. Raises ValueError when the weights would change."""
    before = read_manifest(package)
    config = package_config(package) if before["task"] == "score" else translation_config(package)
    constants = read_constants(package)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / package.name
        precisions = write_package(made, constants, ut.graphs(config, constants))
        if (made / "weights.bin").read_bytes() != (package / "weights.bin").read_bytes():
            raise ValueError("the graphs need other weights: export the package from its checkpoint")
        old, new = ({path.name: path.read_bytes() for path in at.glob("*.onnx")} for at in (package, made))
        for name in old.keys() - new.keys():
            (package / name).unlink()
        for name in new:
            shutil.copyfile(made / name, package / name)
    facts = {key: value for key, value in before.items() if key not in ("format", "name", "files")} | {"precisions": precisions}
    (package / "manifest.json").unlink()
    write_manifest(package, facts, before)
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path, help="folders, for example models/ut-lm-en")
    for package in parser.parse_args().packages:
        print(package.name, *renew(package))


if __name__ == "__main__":
    main()

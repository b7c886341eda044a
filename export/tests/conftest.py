"""Where the checkpoints are; tests that need them are skipped where the folder is not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import SHARED, checkpoint_folder


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: set PONDER_SHARED to the folder with checkpoints/ and eval/")
    return SHARED


@pytest.fixture(scope="session")
def checkpoint(shared: Path) -> Path:
    return checkpoint_folder("ut-lm-en")

"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _deterministic() -> None:
    """Make torch refuse what it cannot do the same way twice."""
    torch.use_deterministic_algorithms(mode=True)


@pytest.fixture(scope="session")
def real_inputs() -> Path:
    """The folder with real weights and images; tests that need it are not run without it."""
    folder = Path(os.environ.get("PROTUNING_REAL_INPUTS", ROOT.parent / "shared")).resolve()
    if not (folder / "weights").is_dir():
        pytest.skip(f"not run: no real inputs at {folder} (set PROTUNING_REAL_INPUTS)")
    return folder

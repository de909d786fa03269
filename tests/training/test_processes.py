"""Several processes together: the same training as one process in as many parts."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from adapters.checkpoint import read
from training import results
from training.config import to_toml
from training.directory import ADAPTER, RunDirectory
from training.run import train

ROOT = Path(__file__).parents[2]


def test_two_processes_train_as_one_in_two_parts(configure, tmp_path, monkeypatch):
    """Launched by torchrun on the CPU: gradients are averaged, one process writes the files."""
    monkeypatch.setattr(results, "write_report", lambda *_: None)
    config = configure(method="head", augment="light", epochs=2)
    (tmp_path / "config.toml").write_text(to_toml(config))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = ["--nproc-per-node", "2", "-m", "protuning", "train", "--config", "config.toml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command, "--out", "two"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    train(config.model_copy(update={"accumulation": 2}), RunDirectory(tmp_path / "one"))
    together, alone = (read(tmp_path / name / ADAPTER).state for name in ("two", "one"))
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        torch.testing.assert_close(together[name], values, atol=1e-4, rtol=1e-3)

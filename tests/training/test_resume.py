"""Kill -9: a run that was killed anywhere goes on to the same adapter."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adapters.checkpoint import read
from training import results
from training.config import to_toml
from training.directory import ADAPTER, MODEL, STATE, RunDirectory
from training.errors import Interrupted
from training.run import train
from training.stopping import StopRequest

ROOT = Path(__file__).parents[2]
# Trains, and writes a line after each update, saved or not.
CHILD = """
import sys
from pathlib import Path
import torch
from training.config import make_config, read_options
from training.directory import RunDirectory
from training.run import train

class Teller:
    def begin(self, updates, done): pass
    def update(self, loss, images_per_s): print("update", flush=True)
    def epoch(self, history): pass
    def end(self): pass

torch.use_deterministic_algorithms(True)
config = make_config(read_options(Path(sys.argv[1])))
train(config, RunDirectory(Path(sys.argv[2])), observers=[Teller()])
"""


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Leave the report and its pictures out, which take most of a small run's time."""
    monkeypatch.setattr(results, "write_report", lambda *_: None)


def test_a_killed_run_goes_on_to_the_same_bytes(configure, tmp_path):
    """SIGKILL after a random update, then --resume: the file equals the uninterrupted run's."""
    config = configure(epochs=3, save_every=0.0, accumulation=2)
    (tmp_path / "config.toml").write_text(to_toml(config))
    killed, whole = RunDirectory(tmp_path / "killed"), RunDirectory(tmp_path / "whole")
    updates = random.Random(0).randrange(1, 8)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "config.toml"), str(killed.path)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        for _ in range(updates):
            assert child.stdout.readline() == b"update\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    killed.reopen()
    train(config, killed, resume=True)
    train(config, whole)
    assert not killed.file(STATE).exists()
    assert read(killed.file(ADAPTER)).digest == read(whole.file(ADAPTER)).digest


class _StopAfter(StopRequest):
    """A wish to stop, after so many questions."""

    def __init__(self, updates):
        self.left = updates

    @property
    def requested(self):
        """Whether the time has come."""
        self.left -= 1
        return self.left == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_stopped_baseline_goes_on_to_the_same_bytes(configure, tmp_path, name):
    """Weights and BatchNorm statistics of a trained backbone are part of the state."""
    config = configure(backbone=name, method="full", lr=1e-3, batch_size=9, augment="strong")
    stopped, whole = RunDirectory(tmp_path / "stopped"), RunDirectory(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, stopped, stop=_StopAfter(3))
    train(config, stopped, resume=True)
    train(config, whole)
    assert stopped.file(MODEL).read_bytes() == whole.file(MODEL).read_bytes()


def test_a_stopped_head_goes_on_to_the_same_bytes(configure, tmp_path):
    """The scales of its features and its best weights are part of the run, too."""
    config = configure(method="head", epochs=3)
    stopped, whole = RunDirectory(tmp_path / "stopped"), RunDirectory(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, stopped, stop=_StopAfter(5))
    train(config, stopped, resume=True)
    train(config, whole)
    assert read(stopped.file(ADAPTER)).digest == read(whole.file(ADAPTER)).digest

"""The loop itself, on a toy: what it optimises, keeps, refuses, and how it goes on."""

import os
import signal
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from training.batches import BatchPlan
from training.config import make_config
from training.directory import STATE, RunDirectory
from training.errors import Interrupted, OtherRun, OutOfMemory, TrainingDiverged
from training.learners import Batch, Score
from training.loop import Loop
from training.machine import find_machine
from training.methods import settle
from training.stopping import StopRequest

IMAGES, FEATURES, CLASSES = 22, 6, 3


def _toy():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )


@dataclass
class ToyLearner:
    """Separable points instead of images; `scores` is what validation will find."""

    plan: BatchPlan
    model: nn.Module = field(default_factory=_toy)
    scores: list[float] | None = None
    snapshots: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def batches(self, epoch, update, epochs):
        """Points around their class's centre."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(IMAGES) % CLASSES
        points = torch.randn(IMAGES, FEATURES, generator=generator)
        points[torch.arange(IMAGES), labels] += 3
        for _, part in self.plan.stream(epoch, update, epochs):
            rows = torch.from_numpy(part)
            yield Batch(points[rows], labels[rows])

    def validate(self):
        """The next score of the script."""
        state = self.model.state_dict()
        self.snapshots.append({name: value.clone() for name, value in state.items()})
        if self.scores is None:
            return None
        return Score(top1=self.scores[len(self.snapshots) - 1], loss=1.0)


class Watcher:
    """An observer that acts after a given update."""

    def __init__(self, act=lambda: None, after=None):
        self.act, self.after = act, after
        self.updates = 0
        self.history = ()

    def begin(self, updates, done):
        """Remember what was announced."""
        self.announced = (updates, done)

    def update(self, _loss, _images_per_s):
        """Count, and act when the time has come."""
        self.updates += 1
        if self.updates == self.after:
            self.act()

    def epoch(self, history):
        """Keep the rows."""
        self.history = history

    def end(self):
        """Nothing is open."""


def _loop(directory, *, learner=None, watcher=None, stop=None, run="0" * 64, **options):
    options = {
        "epochs": 3,
        "batch_size": 8,
        "lr": 0.02,
        "save_every": 1e9,
        "precision": "fp32",
    } | options
    config = settle(make_config({"data": "x", "backbone": "x", "device": "cpu"} | options))
    plan = BatchPlan(IMAGES, config.batch_size, config.seed, config.accumulation)
    learner = learner or ToyLearner(plan)
    learner.plan = plan
    machine = find_machine(config, "vit")
    loop = Loop(
        learner,
        config,
        machine,
        RunDirectory(directory),
        run=run,
        observer=watcher or Watcher(),
        stop=stop or StopRequest(),
    )
    return loop, learner


def _same(one, other):
    return all(one[name].equal(other[name]) for name in one)


def test_it_learns(tmp_path):
    """The loss falls, every epoch has its row, and the rows reach the observer."""
    watcher = Watcher()
    loop, _ = _loop(tmp_path, watcher=watcher, epochs=8)
    outcome = loop.run()
    losses = [row.train_loss for row in outcome.history]
    assert losses[-1] < 0.8 * losses[0]
    assert [row.epoch for row in outcome.history] == [*range(1, 9)]
    assert watcher.history == outcome.history
    assert watcher.announced == (24, 0)
    assert watcher.updates == 24


def test_the_weights_of_the_best_epoch_are_kept(tmp_path):
    """The highest validation accuracy wins; of equal ones the last."""
    learner = ToyLearner(None, scores=[0.5, 0.9, 0.9, 0.7])
    loop, _ = _loop(tmp_path, learner=learner, epochs=4)
    outcome = loop.run()
    assert outcome.best.epoch == 3
    assert _same(learner.model.state_dict(), learner.snapshots[2])
    assert not _same(learner.snapshots[2], learner.snapshots[3])


def test_without_validation_the_last_epoch_counts(tmp_path):
    """No score, no choice."""
    loop, learner = _loop(tmp_path)
    assert loop.run().best.epoch == 3
    assert _same(learner.model.state_dict(), learner.snapshots[-1])


def test_parts_of_a_batch_add_up_to_the_batch(tmp_path):
    """Without norms and dropout, accumulation changes the rounding only."""
    finals = []
    for accumulation in (1, 2, 3):
        learner = ToyLearner(None, model=nn.Linear(FEATURES, CLASSES))
        nn.init.zeros_(learner.model.weight)
        nn.init.zeros_(learner.model.bias)
        loop, _ = _loop(tmp_path, learner=learner, accumulation=accumulation, optimizer="sgd")
        loop.run()
        finals.append(learner.model.weight.detach())
    torch.testing.assert_close(finals[1], finals[0])
    torch.testing.assert_close(finals[2], finals[0])
    assert finals[0].abs().max() > 0.01


def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(tmp_path):
    """After each update in turn: stop, build everything anew, resume; all is bit-equal."""
    loop, whole = _loop(tmp_path / "whole", learner=ToyLearner(None, scores=[0.3, 0.8, 0.5]))
    expected = loop.run()
    for after in range(1, 10):
        directory = tmp_path / str(after)
        stop = StopRequest()
        watcher = Watcher(lambda stop=stop: setattr(stop, "requested", True), after)
        scores = [0.3, 0.8, 0.5]
        loop, _ = _loop(
            directory, learner=ToyLearner(None, scores=scores), watcher=watcher, stop=stop
        )
        with pytest.raises(Interrupted, match="--resume"):
            loop.run()
        finished = (after - 1) // 3
        resumed = ToyLearner(None, scores=scores[finished:])
        loop, _ = _loop(directory, learner=resumed)
        outcome = loop.run()
        assert _same(resumed.model.state_dict(), whole.model.state_dict()), after
        assert outcome.best.epoch == expected.best.epoch == 2
        for ours, theirs in zip(outcome.history, expected.history, strict=True):
            assert (ours.train_loss, ours.val_top1, ours.lr) == (
                theirs.train_loss,
                theirs.val_top1,
                theirs.lr,
            )


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    """A real SIGINT between two updates ends in a saved state, not in a KeyboardInterrupt."""
    watcher = Watcher(lambda: os.kill(os.getpid(), signal.SIGINT), after=2)
    stop = StopRequest()
    loop, _ = _loop(tmp_path, watcher=watcher, stop=stop)
    with stop, pytest.raises(Interrupted):
        loop.run()
    assert watcher.updates == 2
    assert (tmp_path / STATE).is_file()


def test_a_second_ctrl_c_acts_at_once():
    """Who cannot wait for the step does not have to."""
    # A process that a script starts in the background begins with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_state_is_saved_as_often_as_asked(tmp_path):
    """Every 0 seconds means after every update."""
    loop, _ = _loop(tmp_path, save_every=0.0)
    loop.run()
    assert (tmp_path / STATE).is_file()


def test_another_runs_state_is_refused(tmp_path):
    """Other options or images: not this run."""
    _loop(tmp_path, save_every=0.0)[0].run()
    with pytest.raises(OtherRun, match="--overwrite"):
        _loop(tmp_path, run="1" * 64)[0].run()


def test_divergence_is_said_and_never_saved(tmp_path):
    """A loss that is no number stops the run; the saved state is from before."""
    learner = ToyLearner(None)
    watcher = Watcher(lambda: learner.model[0].weight.data.fill_(float("nan")), after=4)
    loop, _ = _loop(tmp_path, learner=learner, save_every=0.0, watcher=watcher)
    with pytest.raises(TrainingDiverged, match="--lr"):
        loop.run()
    loop, learner = _loop(tmp_path)
    outcome = loop.run()
    assert all(values.isfinite().all() for values in learner.model.state_dict().values())
    assert len(outcome.history) == 3


class _Hungry(nn.Linear):
    """A layer that asks for more memory than there is."""

    def __init__(self, error=None):
        super().__init__(FEATURES, CLASSES)
        self.error = error

    def forward(self, inputs):
        """Ask."""
        if self.error is not None:
            raise self.error
        return super().forward(inputs) + torch.empty(2**55).sum()


@pytest.mark.parametrize(
    "error", [None, torch.OutOfMemoryError("CUDA out of memory."), MemoryError()]
)
def test_a_batch_that_does_not_fit_says_how_to_make_it_smaller(tmp_path, error):
    """The CPU's allocator, the GPU's and Python's end in the same advice."""
    loop, _ = _loop(tmp_path, learner=ToyLearner(None, model=_Hungry(error)), accumulation=2)
    with pytest.raises(OutOfMemory, match=r"batch of 8 images in 2 .*--accumulation 4"):
        loop.run()


def test_other_errors_are_not_taken_for_memory(tmp_path):
    """A bug in a model stays what it is."""
    learner = ToyLearner(None, model=_Hungry(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        _loop(tmp_path, learner=learner)[0].run()

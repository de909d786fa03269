"""The one training loop: updates, validation, the best weights, and a state to go on from."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.augment import derive_seed
from training.config import TrainConfig
from training.directory import STATE, RunDirectory
from training.errors import Interrupted, OtherRun, TrainingDiverged
from training.frozen import SparingFrozen
from training.learners import Batch, Learner
from training.machine import Machine, memory_errors
from training.methods import trained_state
from training.optim import (
    OptimizerState,
    make_optimizer,
    make_schedule,
    pack_optimizer,
    unpack_optimizer,
)
from training.progress import Observer
from training.state import EpochRow, Position, RunState, encode_state, read_state
from training.stopping import StopRequest

Clock = Callable[[], float]

_REPORT_EVERY_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """A finished training: every epoch, and the one whose weights the model has now."""

    history: tuple[EpochRow, ...]
    best: EpochRow


class Loop:
    """Trains a learner's model, on from its saved state where there is one.

    Nothing reads a value back from the device within an epoch, but twice a second for the
    progress, and to save a state.
    """

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        machine: Machine,
        directory: RunDirectory,
        *,
        run: str,
        observer: Observer,
        stop: StopRequest,
        clock: Clock = time.perf_counter,
    ) -> None:
        """Make the optimiser and schedule.

        Args:
            learner: what is trained.
            config: settled.
            machine: that the learner runs on.
            directory: where the state is saved.
            run: the sha256 that a saved state must have to be this run's.
            observer: is told how it goes.
            stop: is asked after each update.
            clock: seconds.

        Raises:
            InvalidConfig: no such optimiser.
        """
        assert config.epochs is not None  # noqa: S101  settled
        self._epochs = config.epochs
        self._learner = learner
        self._config = config
        self._machine = machine
        self._directory = directory
        self._run = run
        self._observer = observer
        self._stop = stop
        self._clock = clock
        self._trained = trained_state(learner.model)
        self._optimizer = make_optimizer(learner.model, config)
        self._schedule = make_schedule(self._optimizer, config, learner.plan.updates)
        self._model = machine.share(learner.model)
        self._epoch = 0
        self._update = 0
        self._loss_sum = torch.zeros((), device=machine.device)
        self._seconds = 0.0
        self._best: EpochRow | None = None
        self._best_state: dict[str, Tensor] = {}
        self._history: tuple[EpochRow, ...] = ()
        self._resumed_at = self._saved_at = self._reported_at = clock()

    def run(self) -> Outcome:
        """Train to the end; the model then has the weights of the best epoch.

        Raises:
            Interrupted: stopped on request, after the state was saved.
            TrainingDiverged: the loss is no longer a number.
            OutOfMemory: a batch does not fit.
            OtherRun: the saved state is that of other options or images.
            DamagedState: the saved state cannot be read.
            RunNotWritten: the disk is full; the last saved state is still there.
        """
        self._restore()
        updates = self._learner.plan.updates
        self._observer.begin(self._epochs * updates, self._epoch * updates + self._update)
        batches = self._learner.batches(self._epoch, self._update, self._epochs)
        try:
            with memory_errors(self._config), closing(batches):
                while self._epoch < self._epochs:
                    self._train_epoch(batches)
                    self._finish_epoch()
        finally:
            self._observer.end()
        assert self._best is not None  # noqa: S101  there is one epoch at least
        self._learner.model.load_state_dict(self._best_state, strict=False)
        return Outcome(self._history, self._best)

    def _train_epoch(self, batches: Generator[Batch]) -> None:
        self._model.train()
        self._resumed_at = self._clock()
        plan = self._learner.plan
        sizes = [len(batch) for batch in plan.batches(self._epoch)]
        while self._update < plan.updates:
            self._step(batches, sizes[self._update])
            self._update += 1
            self._observer.update(*self._figures(sum(sizes[: self._update])))
            if self._machine.agree(self._stop.requested):
                self._save()
                raise Interrupted(
                    f"Stopped in epoch {self._epoch + 1}. Go on with: protuning train --resume "
                    f"--out {self._directory.path}"
                )
            if self._clock() - self._saved_at >= self._config.save_every:
                self._save()

    def _step(self, batches: Generator[Batch], size: int) -> None:
        """One update by a batch of `size` images over all parts and processes."""
        # Dropout and drop path follow from the place in the run: a resumed run draws the same.
        torch.manual_seed(derive_seed(self._config.seed, self._epoch, self._update))
        plan = self._learner.plan
        for part in range(plan.parts):
            inputs, labels = next(batches)
            with self._machine.gradients(self._model, last=part == plan.parts - 1):
                with self._machine.autocast(), SparingFrozen():
                    logits = self._model(inputs)
                loss = F.cross_entropy(
                    logits.float(), labels, label_smoothing=self._config.label_smoothing
                )
                # Processes average their gradients; the batch's loss is the mean of its images.
                torch.autograd.backward(loss * (len(labels) * plan.ranks / size))
            self._loss_sum += loss.detach() * len(labels)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step_update(self._epoch * plan.updates + self._update + 1)

    def _figures(self, images: int) -> tuple[float | None, float | None]:
        """The mean loss and images/s of the epoch so far, now and then."""
        now = self._clock()
        if now - self._reported_at < _REPORT_EVERY_S:
            return None, None
        self._reported_at = now
        return self._loss() / images, images / self._elapsed()

    def _loss(self) -> float:
        """The epoch's sum of losses so far, on this process.

        Raises:
            TrainingDiverged: it is no number.
        """
        return self._finite(self._loss_sum.item())

    def _finite(self, loss: float) -> float:
        if math.isfinite(loss):
            return loss
        raise self._diverged(f"The loss is {loss}")

    def _diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what} in epoch {self._epoch + 1}: training diverged. Take a smaller --lr than "
            f"{self._config.lr:g}, a longer --warmup, or --precision fp32."
        )

    def _elapsed(self) -> float:
        return self._seconds + self._clock() - self._resumed_at

    def _finish_epoch(self) -> None:
        plan = self._learner.plan
        train_loss = self._machine.total([self._loss()])[0] / plan.images
        seconds = self._elapsed()
        score = self._learner.validate()
        row = EpochRow(
            epoch=self._epoch + 1,
            train_loss=train_loss,
            val_loss=score and self._finite(score.loss),
            val_top1=score and score.top1,
            lr=self._optimizer.param_groups[0]["lr"],
            images_per_s=plan.images / max(seconds, 1e-9),
            seconds=seconds,
            peak_memory_mib=self._machine.peak_memory_mib(),
        )
        self._history = (*self._history, row)
        if self._best is None or _rank(row) >= _rank(self._best):
            self._best = row
            self._best_state = {name: _copy(value) for name, value in self._trained.items()}
        self._epoch, self._update, self._seconds = self._epoch + 1, 0, 0.0
        self._loss_sum.zero_()
        if self._machine.rank == 0:
            self._observer.epoch(self._history)

    def _save(self) -> None:
        """Write the state: whole, or not at all; never one that has diverged."""
        loss_sum, seconds = self._loss(), self._elapsed()
        for value in self._trained.values():
            if not value.isfinite().all():
                raise self._diverged("A weight is no longer a number")
        if self._machine.rank == 0:
            optimizer = pack_optimizer(self._optimizer)
            position = Position(
                run=self._run,
                epoch=self._epoch,
                update=self._update,
                loss_sum=loss_sum,
                seconds=seconds,
                best=self._best,
                history=self._history,
                numbers=optimizer.numbers,
            )
            state = RunState(position, self._trained, self._best_state, optimizer.tensors)
            self._directory.write(STATE, encode_state(state))
        self._saved_at = self._clock()

    def _restore(self) -> None:
        """Take up the saved state, if there is one."""
        path = self._directory.file(STATE)
        if not path.is_file():
            return
        state = read_state(path)
        position = state.position
        if position.run != self._run:
            raise OtherRun(
                f"{path} is the state of a run with other options, images or weights. Resume it "
                "with what it was started with, or train again with --overwrite."
            )
        self._learner.model.load_state_dict(state.model, strict=False)
        unpack_optimizer(
            self._optimizer,
            OptimizerState({**state.optimizer}, position.numbers),
        )
        self._epoch, self._update = position.epoch, position.update
        self._loss_sum.fill_(position.loss_sum if self._machine.rank == 0 else 0.0)
        self._seconds, self._history = position.seconds, position.history
        self._best, self._best_state = position.best, {**state.best}


def _rank(row: EpochRow) -> tuple[float, float]:
    """Higher is better: accuracy, then loss; without validation all are equal: the last one."""
    return row.val_top1 or 0.0, -(row.val_loss or 0.0)


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)

"""The use case: a configuration in, a run directory with an adapter and its figures out."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from adapters.backbone import describe
from training.batches import BatchPlan
from training.checkpointing import checkpoint_stages
from training.config import TrainConfig, to_toml
from training.data.check import check_images
from training.data.open import open_dataset
from training.data.samples import Sample
from training.data.scenarios import FewShot, LongTail, Sampling
from training.directory import CONFIG, TENSORBOARD, RunDirectory
from training.evaluate import evaluate_logits, predict_logits
from training.learners import FeatureLearner, ImageLearner, Learner, compute_features
from training.loop import Clock, Loop
from training.machine import find_machine, memory_errors
from training.methods import METHODS, settle
from training.optim import make_optimizer
from training.progress import CsvObserver, Observer, Observers, TensorBoardObserver
from training.results import Finished, Run, write_results
from training.standardize import StandardizedLinear
from training.stopping import StopRequest

# More images make the head's scales no better, and take as long as an epoch.
_MOST_SEEN = 10_000
# Options that say how a run is carried out, not what comes out.
_OF_NO_EFFECT = {
    "data",
    "data_root",
    "download",
    "skip_broken",
    "weights",
    "device",
    "workers",
    "save_every",
    "tensorboard",
}


def train(
    config: TrainConfig,
    directory: RunDirectory,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    stop: StopRequest | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Train as `config` says, and fill `directory`; the metrics are returned too.

    A `resume` goes on from the state in `directory`, whose config must be this one. The seconds of
    history and metrics are the clock's.

    Raises:
        RunError: the directory cannot be used.
        DataError: the images cannot be used.
        LoopError: training stopped before its end.
        AdapterError: there is no such backbone, or the adapter cannot be written.
    """
    if not resume:
        directory.check_free(overwrite=overwrite)
    run = _prepare(settle(config), directory)
    if run.machine.rank != 0:
        _fit(run, observers, stop or StopRequest(), clock)
        return {}
    with directory.hold():
        if not resume:
            directory.create(overwrite=overwrite)
            directory.write(CONFIG, to_toml(run.config).encode())
        return write_results(run, _fit(run, observers, stop or StopRequest(), clock))


def _prepare(config: TrainConfig, directory: RunDirectory) -> Run:
    """Find or load everything, in the order of what fails soonest."""
    method = METHODS[config.method]
    # An optimiser that refuses its options does so before anything is written.
    make_optimizer(nn.Linear(1, 1), config)
    machine = find_machine(config, describe(config.backbone).family)
    splits = open_dataset(
        config.data,
        root=Path(config.data_root) if config.data_root else None,
        seed=config.seed,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        sampling=_sampling(config),
        download=config.download,
    )
    images = check_images(splits, skip_broken=config.skip_broken)
    model = method.build(config, method.load(config), len(splits.class_names))
    if config.grad_checkpointing:
        checkpoint_stages(model.backbone)
    machine.place(model)
    return Run(config, method, machine, directory, images, model)


def _sampling(config: TrainConfig) -> Sampling | None:
    if config.long_tail is not None:
        return LongTail(config.long_tail)
    return FewShot(config.shots) if config.shots is not None else None


def _fit(run: Run, observers: Sequence[Observer], stop: StopRequest, clock: Clock) -> Finished:
    began = clock()
    with memory_errors(run.config):
        learner = _learner(run)
    prepared = clock() - began
    with stop:
        loop = Loop(
            learner,
            run.config,
            run.machine,
            run.directory,
            run=_identity(run),
            observer=_observe(run, observers),
            stop=stop,
            clock=clock,
        )
        outcome = loop.run()
    if isinstance(run.model.adapter.head, StandardizedLinear):
        run.model.adapter.head = run.model.adapter.head.fold()
    seconds = prepared + sum(row.seconds for row in outcome.history)
    logits, labels = predict_logits(
        run.model,
        run.images.splits.test,
        run.model.backbone.spec.preprocessing,
        device=run.machine.device,
        # As it will be served and as `protuning evaluate` counts, whatever it was trained in.
        precision="fp32",
        workers=run.machine.workers,
    )
    counts = run.train_counts
    evaluation = evaluate_logits(logits, labels, classes=len(counts), train_counts=counts)
    return Finished(outcome, evaluation, logits, seconds)


def _learner(run: Run) -> Learner:
    splits, machine, config = run.images.splits, run.machine, run.config
    plan = BatchPlan(
        images=len(splits.train),
        batch_size=config.batch_size,
        seed=config.seed,
        parts=config.accumulation,
        ranks=machine.ranks,
        rank=machine.rank,
    )
    assert config.augment is not None  # noqa: S101  settled
    preprocessing = run.model.backbone.spec.preprocessing
    by_image = ImageLearner(
        run.model, plan, splits.train, splits.val, preprocessing, config.augment, machine
    )
    if not run.method.servable or run.method.prompts:
        return by_image
    cached = config.augment == "none"
    seen = splits.train if cached else _some(splits.train, config.seed)
    features = compute_features(run.model, seen, machine)
    head = StandardizedLinear(run.model.adapter.head, features.inputs)
    run.model.adapter.head = head
    if cached:
        val = compute_features(run.model, splits.val, machine) if splits.val else None
        return FeatureLearner(head, plan, features, val, machine)
    return by_image


def _some(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """As many images as tell how features are distributed."""
    drawn = np.random.default_rng(seed).permutation(len(samples))[:_MOST_SEEN]
    return [samples[index] for index in drawn]


def _observe(run: Run, observers: Sequence[Observer]) -> Observer:
    if run.machine.rank != 0:
        return Observers([])
    everyone = [*observers, CsvObserver(run.directory)]
    if run.config.tensorboard:
        everyone.append(TensorBoardObserver(run.directory.file(TENSORBOARD)))
    return Observers(everyone)


def _identity(run: Run) -> str:
    """The sha256 of what decides a run's result."""
    decisive = {
        "config": run.config.model_dump(exclude=_OF_NO_EFFECT, mode="json"),
        "precision": run.machine.precision,
        "ranks": run.machine.ranks,
        "backbone": run.model.backbone.spec.fingerprint,
        "images": run.images.digest,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

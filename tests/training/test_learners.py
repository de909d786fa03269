"""Where the batches come from: workers and cached features change nothing."""

import pytest
import torch

from training.batches import BatchPlan
from training.data.open import open_dataset
from training.learners import FeatureLearner, ImageLearner, compute_features
from training.machine import find_machine
from training.methods import METHODS, settle


@pytest.fixture
def build(configure):
    """A function that makes model, splits and machine for some options."""

    def make(**options):
        config = settle(configure(**options))
        method = METHODS[config.method]
        splits = open_dataset(config.data, val_fraction=config.val_fraction)
        model = method.build(config, method.load(config), len(splits.class_names))
        machine = find_machine(config, "vit")
        plan = BatchPlan(len(splits.train), config.batch_size, config.seed)
        images = ImageLearner(
            model,
            plan,
            splits.train,
            splits.val,
            model.backbone.spec.preprocessing,
            config.augment,
            machine,
        )
        return images, model, splits, machine

    return make


def test_the_number_of_workers_changes_no_pixel(build):
    """Batches decoded here, by one worker and by two, from the middle of a run on."""
    batches = []
    for workers in (0, 1, 2):
        learner, *_ = build(backbone="test_vit", augment="strong", workers=workers)
        batches.append([*learner.batches(0, 1, 2)])
    for other in batches[1:]:
        for one, two in zip(batches[0], other, strict=True):
            assert one.inputs.equal(two.inputs)
            assert one.labels.equal(two.labels)


def test_cached_features_train_the_same_head(build):
    """Batches and validation by features equal those by images."""
    learner, model, splits, machine = build(method="head")
    train = compute_features(model, splits.train, machine)
    val = compute_features(model, splits.val, machine)
    cached = FeatureLearner(model.adapter.head, learner.plan, train, val, machine)
    torch.nn.init.normal_(model.adapter.head.weight)
    model.eval()
    pairs = zip(learner.batches(0, 0, 2), cached.batches(0, 0, 2), strict=True)
    with torch.no_grad():
        for by_image, by_feature in pairs:
            assert by_image.labels.equal(by_feature.labels)
            logits = cached.model(by_feature.inputs)
            torch.testing.assert_close(logits, model(by_image.inputs), atol=1e-4, rtol=1e-4)
    assert cached.validate() == pytest.approx(learner.validate(), rel=1e-4)


def test_without_validation_images_there_is_no_score(build):
    """None, rather than a figure of nothing."""
    learner, *_ = build(val_fraction=0.0)
    assert learner.validate() is None

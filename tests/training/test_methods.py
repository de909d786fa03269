"""The methods: what trains, how much of it, and what stays as it was."""

import pytest
import torch

from adapters.backbone import StagedBackbone, describe, staged
from adapters.backbone.architecture import create
from tests import makers
from training.config import make_config
from training.methods import METHODS, trained_state

SMALL = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "regnetx_002")

# backbone, method, classes, the paper's count in millions (Tables 2, 3 and 8)
COUNTS = [
    ("resnet50", "head", 120, 0.25),
    ("resnet50", "partial-1", 120, 4.71),
    ("resnet50", "partial-2", 120, 9.17),
    ("resnet50", "full", 120, 23.75),
    ("resnet101", "partial-1", 120, 4.71),
    ("resnet101", "partial-2", 120, 9.17),
    ("resnet101", "scratch", 120, 42.75),
    ("regnetx_320", "head", 120, 0.30),
    ("regnetx_320", "partial-1", 120, 3.69),
    ("regnetx_320", "partial-2", 120, 10.05),
    ("regnetx_320", "full", 120, 105.59),
    ("deit_small_patch16_224", "head", 120, 0.05),
    ("deit_small_patch16_224", "partial-1", 120, 1.23),
    ("deit_small_patch16_224", "partial-2", 120, 1.82),
    ("deit_small_patch16_224", "full", 120, 21.71),
    ("swin_small_patch4_window7_224", "head", 120, 0.09),
    ("swin_small_patch4_window7_224", "partial-1", 120, 2.45),
    ("swin_small_patch4_window7_224", "partial-2", 120, 4.82),
    ("swin_small_patch4_window7_224", "full", 120, 48.93),
    ("deit_base_patch16_224", "partial-1", 120, 4.82),
    ("deit_base_patch16_224", "partial-2", 120, 7.18),
    ("deit_base_patch16_224", "full", 120, 85.89),
    ("swin_base_patch4_window7_224", "head", 120, 0.12),
    ("swin_base_patch4_window7_224", "partial-1", 120, 4.32),
    ("swin_base_patch4_window7_224", "partial-2", 120, 8.52),
    ("swin_base_patch4_window7_224", "full", 120, 86.87),
    ("resnet50", "full", 100, 23.71),
    ("resnet50", "pro-tuning", 100, 3.82),
    ("resnet50", "pro-tuning-full", 100, 27.33),
]


@pytest.mark.parametrize(("backbone", "method", "classes", "millions"), COUNTS)
def test_the_trained_parameters_are_the_papers(monkeypatch, backbone, method, classes, millions):
    """Every count of the paper comes out within its last printed digit."""
    monkeypatch.setattr(staged, "fingerprint", lambda *_: "0" * 64)  # meta tensors have no bytes
    config = make_config({"data": "none", "backbone": backbone})
    with torch.device("meta"):
        bare = StagedBackbone(create(backbone), describe(backbone))
        model = METHODS[method].build(config, bare, classes)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count / 1e6 == pytest.approx(millions, abs=0.0101)


def _fresh(name):
    """A backbone of one's own with the shared one's weights."""
    model = create(name)
    model.load_state_dict(makers.backbone(name).model.state_dict())
    return StagedBackbone(model, describe(name))


def _build(name, method):
    config = make_config({"data": "none", "backbone": name})
    return METHODS[method].build(config, _fresh(name), 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_a_step_changes_what_the_method_trains_and_nothing_else(name, method):
    """After a step every trained weight has moved, and every other tensor is bit-equal."""
    model = _build(name, method)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = set(trained_state(model))
    parameters = {key for key, value in model.named_parameters() if value.requires_grad}
    size = model.backbone.spec.preprocessing.height
    images_BCHW = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # the last norm of a prompt block lets gradients through after one step
        torch.nn.functional.cross_entropy(model(images_BCHW), torch.tensor([0, 1, 2])).backward()
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    moved = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert moved <= trained
    assert {key for key in parameters if before[key].ndim > 1} <= moved
    backbone_moved = any(key.startswith("backbone.") for key in moved)
    assert backbone_moved != METHODS[method].servable


def test_frozen_norms_keep_their_statistics_and_thawed_ones_move():
    """BatchNorms train with the part that they belong to, and with no other."""
    for method, moves in (("pro-tuning", False), ("head", False), ("full", True)):
        model = _build("test_resnet", method).train()
        norm = model.backbone.model.bn1
        before = norm.running_mean.clone()
        model(torch.randn(2, 3, 64, 64))
        assert norm.running_mean.equal(before) != moves, method


def test_timms_own_classifier_never_trains():
    """The head replaces it: it is no parameter of any method."""
    model = _build("test_resnet", "full")
    assert not any(p.requires_grad for p in model.backbone.model.fc.parameters())


def test_scratch_depends_on_the_seed_and_not_on_the_weights():
    """Each seed has its own random backbone, the same one every time."""

    def first_weight(seed):
        config = make_config(
            {"data": "none", "backbone": "test_resnet", "weights": "missing", "seed": seed}
        )
        return METHODS["scratch"].load(config).model.conv1[0].weight

    assert first_weight(1).equal(first_weight(1))
    assert not first_weight(1).equal(first_weight(2))


def test_a_build_leaves_the_callers_random_numbers_alone():
    """Building is seeded by the configuration only."""
    backbone = _fresh("test_vit")
    config = make_config({"data": "none", "backbone": "test_vit"})
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    METHODS["pro-tuning"].build(config, backbone, 3)
    assert torch.rand(1).equal(expected)

"""Frozen layers that keep less for the backward pass, against torch's own."""

import copy
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import makers
from training.frozen import SparingFrozen


def _kept(run, weights=()):
    """What a forward pass returns, and the bytes beside `weights` kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    for weight in weights:
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return result, sum(kept.values())


def _pass(model, images_BCHW, *, sparing, dtype=None):
    """Logits, gradients of the adapter, and the bytes kept in between."""
    model.zero_grad()
    with (
        SparingFrozen() if sparing else nullcontext(),
        torch.autocast("cpu", dtype, enabled=dtype is not None),
    ):
        logits, kept = _kept(lambda: model(images_BCHW), model.state_dict().values())
    F.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
    return logits, {name: p.grad for name, p in model.adapter.named_parameters()}, kept


@pytest.mark.parametrize("name", makers.SMALL_BACKBONES.values())
def test_a_training_step_is_the_same(name):
    """Every family: the same logits to the bit, gradients up to rounding, never more memory."""
    # The backbone is all tests' own.
    model = copy.deepcopy(makers.model(name)).double().train()
    size = model.backbone.spec.preprocessing
    images_BCHW = torch.randn(2, 3, size.height, size.width, dtype=torch.float64)
    logits, gradients, kept = _pass(model, images_BCHW, sparing=False)
    our_logits, our_gradients, our_kept = _pass(model, images_BCHW, sparing=True)
    assert our_logits.equal(logits)
    for key, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[key], gradient)
    assert our_kept <= kept


def test_a_cnn_keeps_far_less():
    """Which is what it is for; in bfloat16 too, where gradients come in that type."""
    model = makers.model("regnetx_002").train()
    size = model.backbone.spec.preprocessing
    images_BCHW = torch.randn(2, 3, size.height, size.width)
    for dtype in (None, torch.bfloat16):
        _, gradients, kept = _pass(model, images_BCHW, sparing=False, dtype=dtype)
        _, our_gradients, our_kept = _pass(model, images_BCHW, sparing=True, dtype=dtype)
        assert our_kept < 0.8 * kept
        # Ahead of a norm a bias has no gradient but rounding.
        for key in [key for key in gradients if not re.search(r"conv.\.bias", key)]:
            error = (our_gradients[key] - gradients[key]).norm()
            assert error <= 0.02 * gradients[key].norm() + 1e-6, key


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (2, 1), "padding": (0, 2)},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding": "same"},
    ],
)
def test_a_frozen_convolution_passes_the_gradient_on(options, memory_format):
    """Of every geometry, and in either order of memory."""
    images_BCHW = torch.randn(2, 4, 9, 8, dtype=torch.float64).to(memory_format=memory_format)
    images_BCHW.requires_grad_()
    weight = torch.randn(6, 4 // options.get("groups", 1), 3, 3, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    expected = F.conv2d(images_BCHW, weight, bias, **options)
    with SparingFrozen():
        output, kept = _kept(lambda: F.conv2d(images_BCHW, weight, bias, **options), [weight])
    assert output.equal(expected)
    if options.get("padding") != "same":
        assert kept == 0
    seen = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, images_BCHW, seen) for y in (output, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("affine", [True, False])
def test_a_frozen_norm_passes_the_gradient_on(affine):
    """With weights of its own and without, and it keeps no map."""
    norm = nn.BatchNorm2d(3, affine=affine).double().eval().requires_grad_(requires_grad=False)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    images_BCHW = torch.randn(2, 3, 50, 40, dtype=torch.float64, requires_grad=True)
    expected = norm(images_BCHW)
    with SparingFrozen():
        output, kept = _kept(lambda: norm(images_BCHW), norm.state_dict().values())
    assert output.equal(expected)
    assert kept == 0
    seen = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, images_BCHW, seen) for y in (output, expected))
    torch.testing.assert_close(ours, theirs)


def test_what_trains_is_left_alone():
    """A trained weight gets its gradient, and a norm in training mode moves its statistics."""
    conv, norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, affine=False)
    images_BCHW = torch.randn(2, 3, 8, 8, requires_grad=True)
    with SparingFrozen():
        (norm(conv(images_BCHW)) ** 3).sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert norm.num_batches_tracked == 1
    assert norm.running_mean.abs().sum() > 0

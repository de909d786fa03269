"""The standardised head: the same function in other coordinates."""

import pytest
import torch

from adapters.head import make_head
from adapters.manifest import HeadSpec
from training.standardize import StandardizedLinear

CLASSES, FEATURES = 3, 5


@pytest.fixture
def features():
    """40 feature vectors whose channels differ in scale and mean."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.3, 1.0, 3.0, 0.6, 2.0])
    return torch.randn(40, FEATURES, generator=generator) * scale + 7


@pytest.fixture
def head():
    """A function that makes a standardised head for some features."""

    def make(features):
        plain = make_head(HeadSpec(in_features=FEATURES, classes=CLASSES))
        torch.nn.init.normal_(plain.weight)
        torch.nn.init.normal_(plain.bias)
        return StandardizedLinear(plain, features)

    return make


def test_the_weights_see_features_of_mean_zero_and_variance_one(features, head):
    """Of the images that the scales were taken from."""
    seen = head(features).standardize(features)
    torch.testing.assert_close(seen.mean(0), torch.zeros(FEATURES), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.var(0, correction=0), torch.ones(FEATURES))


def test_the_folded_layer_is_the_same_function(features, head):
    """A plain linear layer with the logits of the standardised one, on other features too."""
    standardized = head(features)
    folded = standardized.fold()
    assert type(folded) is torch.nn.Linear
    for inputs in (features, 100 * torch.randn(8, FEATURES)):
        torch.testing.assert_close(folded(inputs), standardized(inputs), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("constant", [1, FEATURES])
def test_features_that_do_not_vary_are_not_blown_up(features, head, constant):
    """One dead channel, or none alive: a small change of it later moves the logits little."""
    features[:, :constant] = 2.0
    standardized = head(features)
    nudged = features.clone()
    nudged[:, :constant] += 0.01
    change = (standardized(nudged) - standardized(features)).abs().max()
    assert change <= 0.1 * FEATURES * standardized.weight.abs().max()

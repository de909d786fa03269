"""Optimisers and schedules: groups, course of the rate, and a state that goes on exactly."""

import pytest
import torch
from torch import nn

from tests import makers
from training.config import make_config
from training.errors import InvalidConfig
from training.methods import settle
from training.optim import make_optimizer, make_schedule, pack_optimizer, unpack_optimizer


def _config(**options):
    return settle(make_config({"data": "x", "backbone": "x"} | options))


def _model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def _step(model, optimizer, seed):
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(inputs).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "nadamw", "adafactor", "adan"])
def test_a_packed_state_goes_on_as_if_never_stopped(name):
    """Two steps, pack, a new optimiser, unpack, one step: bit-equal to three steps."""
    config = _config(optimizer=name, lr=0.01)
    straight, stopped = _model(), _model()
    optimizers = [make_optimizer(model, config) for model in (straight, stopped)]
    for seed in (1, 2):
        _step(straight, optimizers[0], seed)
        _step(stopped, optimizers[1], seed)
    resumed = make_optimizer(stopped, config)
    unpack_optimizer(resumed, pack_optimizer(optimizers[1]))
    _step(straight, optimizers[0], 3)
    _step(stopped, resumed, 3)
    for one, other in zip(straight.parameters(), stopped.parameters(), strict=True):
        assert one.equal(other)


def test_a_state_that_cannot_be_saved_is_refused():
    """An optimiser that keeps more than tensors and numbers is named."""
    optimizer = make_optimizer(_model(), _config())
    optimizer.state[optimizer.param_groups[0]["params"][0]]["history"] = ["a list"]
    with pytest.raises(InvalidConfig, match="history"):
        pack_optimizer(optimizer)


def test_norms_biases_and_betas_do_not_decay():
    """Weight decay is for weights with two dimensions or more."""
    model = makers.model("test_vit")
    groups = make_optimizer(model.adapter, _config(weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.adapter.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1), name


def test_position_embeddings_do_not_decay():
    """What timm's model excepts from decay is excepted inside ours too."""
    model = nn.ModuleDict({"backbone": makers.backbone("test_vit")})
    model.requires_grad_()
    try:
        groups = make_optimizer(model, _config(weight_decay=0.1)).param_groups
    finally:
        model.requires_grad_(requires_grad=False)
    kept = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert id(makers.backbone("test_vit").model.pos_embed) in kept


@pytest.mark.parametrize("schedule", ["cosine", "tanh", "poly", "constant"])
def test_the_rate_rises_to_its_peak_and_falls_to_nothing(schedule):
    """Warm-up over a tenth of the updates; every schedule but the constant ends near zero."""
    optimizer = make_optimizer(_model(), _config(lr=0.5))
    course = make_schedule(optimizer, _config(lr=0.5, schedule=schedule, epochs=10), 10)
    rates = []
    for update in range(1, 101):
        rates.append(optimizer.param_groups[0]["lr"])
        course.step_update(update)
    assert rates[0] == pytest.approx(0.005)
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(0.5, rel=0.1)
    assert (rates[-1] < 0.02) == (schedule != "constant")


def test_an_unknown_optimiser_is_refused():
    """Timm's names only."""
    with pytest.raises(InvalidConfig, match="adamwow"):
        make_optimizer(_model(), _config(optimizer="adamwow"))

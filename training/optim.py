"""timm's optimisers and schedules for a model, and their state as plain tensors and numbers."""

from typing import NamedTuple

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from training.config import TrainConfig
from training.errors import InvalidConfig

Number = float | int | bool


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimiser of what requires a gradient in `model`; `config` is settled.

    Biases, norms, betas and position embeddings get no weight decay.

    Raises:
        InvalidConfig: timm has no such optimiser, or it does not take these options.
    """
    if config.optimizer not in list_optimizers():
        raise InvalidConfig(
            f"timm has no optimiser called {config.optimizer!r}. Take adamw, sgd, lamb, or another "
            "of timm.optim.list_optimizers()."
        )
    groups = param_groups_weight_decay(
        model, config.weight_decay, no_weight_decay_list=_undecayed(model)
    )
    try:
        return create_optimizer_v2(
            groups, config.optimizer, lr=config.lr, weight_decay=config.weight_decay
        )
    except (TypeError, ValueError) as error:
        raise InvalidConfig(
            f"The optimiser {config.optimizer} refuses: {error}. Take adamw."
        ) from error


def _undecayed(model: nn.Module) -> set[str]:
    """The names that timm's models except from weight decay themselves."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }


def make_schedule(optimizer: Optimizer, config: TrainConfig, updates: int) -> Scheduler:
    """The learning rate by update, with `updates` in each epoch; `config` is settled."""
    assert config.epochs is not None  # noqa: S101  settled
    schedule, _ = create_scheduler_v2(
        optimizer,
        config.schedule,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup * config.epochs,
        warmup_lr=(config.lr or 0) / 100,
        decay_rate=1.0,  # the power of poly, which is then a straight line
        updates_per_epoch=updates,
        step_on_epochs=False,
    )
    schedule.step_update(0)
    return schedule


class OptimizerState(NamedTuple):
    """An optimiser's state without copies: tensors and numbers by path.

    Paths are `state.INDEX.KEY` for a parameter and `group.INDEX.KEY` for a parameter group.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Number]


def pack_optimizer(optimizer: Optimizer) -> OptimizerState:
    """The state of an optimiser.

    Raises:
        InvalidConfig: it keeps something else than tensors and numbers of a parameter.
    """
    state = optimizer.state_dict()
    packed = OptimizerState({}, {})
    for index, values in state["state"].items():
        for key, value in values.items():
            if value is not None and not _pack(packed, f"state.{index}.{key}", value):
                raise InvalidConfig(
                    f"The optimiser {type(optimizer).__name__} keeps {key!r} as "
                    f"{type(value).__name__}, which cannot be saved. Take adamw, sgd or lamb."
                )
    for index, group in enumerate(state["param_groups"]):
        for key, value in group.items():
            # What is neither, such as Adam's two betas, is a constant of the configuration.
            _pack(packed, f"group.{index}.{key}", value)
    return packed


def _pack(packed: OptimizerState, path: str, value: object) -> bool:
    if isinstance(value, Tensor):
        packed.tensors[path] = value
    elif isinstance(value, (bool, int, float)):
        packed.numbers[path] = value
    else:
        return False
    return True


def unpack_optimizer(optimizer: Optimizer, packed: OptimizerState) -> None:
    """Put a state that `pack_optimizer` gave into an optimiser made in the same way."""
    state = optimizer.state_dict()
    by_index: dict[int, dict[str, Tensor | Number]] = {}
    for path, value in (packed.tensors | packed.numbers).items():
        kind, index, key = path.split(".", 2)
        if kind == "group":
            state["param_groups"][int(index)][key] = value
        else:
            by_index.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": by_index, "param_groups": state["param_groups"]})

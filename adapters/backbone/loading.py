"""Where a backbone's weights come from: a safetensors file, the hub, or a seeded generator."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from adapters.backbone.architecture import create, describe
from adapters.backbone.fingerprint import classifier_keys
from adapters.backbone.staged import StagedBackbone
from adapters.errors import WeightsMismatch, WeightsUnavailable

HUB = "hub"
RANDOM = "random"
_SHOWN = 5


def load_backbone(name: str, weights: str | Path = HUB) -> StagedBackbone:
    """The timm model `name` with `weights`, frozen, on the CPU in float32.

    Args:
        name: timm's name, with or without a tag.
        weights: the path of a safetensors file with timm's keys, "hub" for timm's own pretrained
            weights, or "random" for seeded random ones (the same in every process).

    Raises:
        UnknownBackbone: timm does not know the name, or its family has no known cut.
        WeightsUnavailable: there is no such file, or the hub gave nothing.
        WeightsMismatch: the file does not fit the architecture.
    """
    architecture = describe(name)
    if weights == HUB:
        model = _from_hub(name)
    elif weights == RANDOM:
        model = _random(name)
    else:
        model = _from_file(name, Path(weights))
    return StagedBackbone(model, architecture)


def _random(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create(name)
    for module in model.modules():
        # For training timm starts some branches' last norms at zero. Here such a branch would
        # compute nothing: faults in it would not show, and it would be faster than a real one.
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1 and not weight.any():
            nn.init.ones_(weight)
    return model


def _from_hub(name: str) -> nn.Module:
    try:
        with _quiet_hub():
            return create(name, pretrained=True)
    except Exception as error:
        # timm, the hub client and its HTTP client raise errors of their own, without a common root.
        raise WeightsUnavailable(
            f"The pretrained weights of {name} could not be had from timm's hub "
            f"({type(error).__name__}: {_first_line(error).rstrip('.')}). Check the network, or "
            "pass --weights PATH with a safetensors file in timm's key layout, such as "
            "the model.safetensors that the hub has for timm's models."
        ) from error


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's client from writing a line for each of its many tries: one error says it."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _from_file(name: str, path: Path) -> nn.Module:
    state = _read_state(path)
    model = create(name, **_classifier_options(name, state))
    missing, unexpected = _compare(model.state_dict(), state)
    if missing or unexpected:
        raise WeightsMismatch(
            f"{path} does not hold the weights of {name}: "
            f"{_few('missing', missing)}; {_few('not wanted', unexpected)}. "
            f"Pass --weights with a file that was saved from {name}; where the command takes a "
            "backbone, this file's own would do as well."
        )
    if broken := [name for name, values in state.items() if not torch.isfinite(values).all()]:
        raise WeightsMismatch(
            f"{path} holds NaN or infinite values in {_few('broken', broken)}. Get the weights "
            "again."
        )
    model.load_state_dict(state, strict=False)
    return model


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsUnavailable(
            f"There is no weights file at {path}. Pass --weights with the path of a safetensors "
            "file, or --weights hub where a hub can be reached."
        )
    try:
        with safe_open(path, framework="pt"):
            return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(
            f"{path} is not a readable safetensors file ({_first_line(error)}). Convert the "
            "weights with safetensors.torch.save_file; pickle files are never read."
        ) from error


def _classifier_options(name: str, state: dict[str, Tensor]) -> dict[str, int]:
    """As many classes as the file's classifier has, none if it has none: adapters bring a head."""
    with torch.device("meta"):
        prefixes = classifier_keys(create(name))
    rows = state.get(f"{prefixes[0]}weight")
    return {"num_classes": len(rows) if rows is not None and rows.ndim else 0}


def _compare(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names in `wanted` that `given` lacks or has in another shape, and the reverse."""
    essential = {name for name in wanted if not name.endswith("num_batches_tracked")}
    fitting = {name for name in given if name in wanted and given[name].shape == wanted[name].shape}
    return sorted(essential - fitting), sorted(set(given) - fitting)


def _few(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    tensors = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    return f"{tensors} {what} ({', '.join(names[:_SHOWN]) or 'none'}{more})"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

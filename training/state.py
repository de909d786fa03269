"""The resumable state of a run: tensors and JSON in one safetensors file, no pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adapters.manifest import Frozen, Sha256
from training.errors import DamagedState
from training.optim import Number

_FORMAT = "protuning-run-1"


class EpochRow(Frozen):
    """One epoch of the history.

    `epoch` counts from 1; losses are means in nats; `val_top1` is 0 to 1, and None without a
    validation split; `seconds` is training alone, without validation.
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    val_top1: float | None
    lr: float
    images_per_s: float
    seconds: float
    peak_memory_mib: float


class Position(Frozen):
    """How far a run has come, and which run it is.

    Attributes:
        run: the sha256 of what decides its result: options, backbone and images.
        epoch: finished epochs.
        update: finished updates of the epoch after these.
        loss_sum: over the images of these updates.
        seconds: that these updates took.
        best: the row of the best epoch so far.
        history: the finished epochs.
        numbers: of the optimiser's state, by path.
    """

    run: Sha256
    epoch: Annotated[int, Field(ge=0)]
    update: Annotated[int, Field(ge=0)]
    loss_sum: float
    seconds: float
    best: EpochRow | None
    history: tuple[EpochRow, ...]
    numbers: dict[str, Number]


@dataclass(frozen=True)
class RunState:
    """Everything that an interrupted run needs to go on exactly.

    Random generators are not among it: every random number follows from the seed and the position.
    """

    position: Position
    model: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


_PARTS = ("model", "best", "optimizer")


def encode_state(state: RunState) -> bytes:
    """The bytes of a state file."""
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous()
        for part in _PARTS
        for name, value in getattr(state, part).items()
    }
    return save(tensors, {"format": _FORMAT, "position": state.position.model_dump_json()})


def read_state(path: Path) -> RunState:
    """Read a state file.

    Raises:
        DamagedState: it is none, or is of another release.
    """
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118  not a mapping
                part, _, name = key.partition("/")
                parts[part][name] = file.get_tensor(key)
        if metadata.get("format") != _FORMAT:
            raise _damaged(path, "another format")
        position = Position.model_validate_json(metadata["position"])
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        raise _damaged(path, error) from error
    return RunState(position, **parts)


def _damaged(path: Path, cause: object) -> DamagedState:
    return DamagedState(
        f"{path} is not the state of a run that this release can go on with ({cause}). Train "
        "again with --overwrite."
    )

"""The state file: what goes in comes out, and anything else is refused."""

import pytest
import torch
from safetensors.torch import save_file

from training.errors import DamagedState
from training.state import EpochRow, Position, RunState, encode_state, read_state

ROW = EpochRow(
    epoch=1,
    train_loss=0.1 + 0.2,
    val_loss=None,
    val_top1=1 / 3,
    lr=1e-3,
    images_per_s=10.0,
    seconds=2.5,
    peak_memory_mib=100.0,
)
POSITION = Position(
    run="0" * 64,
    epoch=1,
    update=3,
    loss_sum=1 / 7,
    seconds=0.5,
    best=ROW,
    history=(ROW,),
    numbers={"0.step": 7, "1.scale": 0.1, "1.on": True},
)


def _state():
    return RunState(
        POSITION,
        model={"a.weight": torch.randn(3, 2), "a.count": torch.tensor(4)},
        best={"a.weight": torch.randn(3, 2).bfloat16()},
        optimizer={"0.exp_avg": torch.randn(3, 2).t()},
    )


def test_a_state_comes_back_exactly(tmp_path):
    """Every tensor bit by bit with its dtype, every number with its type."""
    state = _state()
    (tmp_path / "state").write_bytes(encode_state(state))
    back = read_state(tmp_path / "state")
    assert back.position == POSITION
    assert {k: type(v) for k, v in back.position.numbers.items()} == {
        "0.step": int,
        "1.scale": float,
        "1.on": bool,
    }
    for part in ("model", "best", "optimizer"):
        tensors = getattr(state, part)
        read = getattr(back, part)
        assert read.keys() == tensors.keys()
        assert all(read[name].equal(tensors[name]) for name in tensors)
        assert all(read[name].dtype == tensors[name].dtype for name in tensors)


def test_every_truncation_is_noticed(tmp_path):
    """A file that ends early is refused, wherever it ends."""
    data = encode_state(_state())
    for size in range(0, len(data), 97):
        (tmp_path / "state").write_bytes(data[:size])
        with pytest.raises(DamagedState, match="--overwrite"):
            read_state(tmp_path / "state")


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "another"}, {"format": "protuning-run-1"}]
    + [{"format": "protuning-run-1", "position": text} for text in ("{", "{}", '{"epoch": -1}')],
)
def test_other_safetensors_files_are_refused(tmp_path, metadata):
    """No format, another format, no position, or a position that is none."""
    save_file({"model/a": torch.zeros(1)}, tmp_path / "state", metadata)
    with pytest.raises(DamagedState):
        read_state(tmp_path / "state")

"""The options of a run: bounds, file, and the method's defaults."""

import pytest

from training.config import make_config, read_options, to_toml
from training.errors import InvalidConfig
from training.methods import METHODS, settle

LEAST = {"data": "flowers", "backbone": "resnet50"}


def test_a_written_configuration_reads_back_the_same(tmp_path):
    """config.toml holds all that differs from None."""
    config = make_config(LEAST | {"beta": 0.5, "lr": 1, "shots": 4, "data": 'odd "name"\n\\'})
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert make_config(read_options(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr": 0}, "lr"),
        ({"epochs": 0}, "epochs"),
        ({"method": "magic"}, "method"),
        ({"momentum": 0.9}, "momentum"),
        ({"shots": 1, "long_tail": 50}, "shots"),
        ({"batch_size": 4, "accumulation": 5}, "accumulation"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_named(options, named):
    """An option out of bounds, unknown, or at odds with another is refused by its name."""
    with pytest.raises(InvalidConfig, match=named):
        make_config(LEAST | options)


@pytest.mark.parametrize("content", [None, b"lr = ", b"\xff"])
def test_an_unreadable_file_is_refused(tmp_path, content):
    """No file, no TOML, no text: one clear error."""
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"config\.toml"):
        read_options(path)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_fills_in_its_own_defaults_only(method):
    """What is given stays, what is not comes from the method; once settled, nothing changes."""
    settled = settle(make_config(LEAST | {"method": method, "lr": 0.5}))
    recipe = METHODS[method].recipe
    assert settled.lr == 0.5
    assert (settled.epochs, settled.augment) == (recipe.epochs, recipe.augment)
    assert settle(settled) == settled

"""The method's size: trainable parameters against the paper's own tables."""

import json

import pytest
from typer.testing import CliRunner

from adapters.backbone import describe
from adapters.cli import app
from adapters.head import head_spec
from adapters.model import count_parameters
from adapters.prompt import prompt_spec

# backbone, classes, options, our exact count, the paper's figure in millions, where it stands
TABLE = [
    ("resnet50", 120, {}, 3_862_124, 3.86, "Table 2"),
    ("resnet101", 120, {}, 3_862_124, 3.86, "Table 2"),
    ("regnetx_320", 120, {}, 5_921_588, 5.91, "Table 2"),
    ("deit_small_patch16_224", 120, {}, 851_165, 0.85, "Table 3"),
    ("deit_base_patch16_224", 120, {}, 3_176_765, 3.17, "Table 3"),
    ("swin_small_patch4_window7_224", 120, {}, 1_543_301, 1.54, "Table 3"),
    ("swin_base_patch4_window7_224", 120, {}, 2_667_997, 2.67, "Table 3"),
    ("swin_small_patch4_window7_224", 10, {}, 1_458_711, 1.458, "Table 4"),
    ("swin_small_patch4_window7_224", 100, {}, 1_527_921, 1.527, "Table 4"),
    ("swin_small_patch4_window7_224", 200, {}, 1_604_821, 1.604, "Table 5"),
    ("swin_base_patch4_window7_224", 200, {}, 2_749_997, 2.749, "Table 5"),
    ("resnet50", 100, {"kernel_size": 3}, 3_759_704, 3.76, "Table 12"),
    ("resnet50", 100, {"kernel_size": 5}, 3_821_144, 3.82, "Table 12"),
    ("resnet50", 100, {"kernel_size": 7}, 3_913_304, 3.91, "Table 12"),
    ("resnet50", 100, {"blocks": 2}, 7_437_388, 7.43, "Table 9"),
    ("resnet50", 100, {"blocks": 3}, 11_053_632, 11.05, "Table 9"),
    ("deit_base_patch16_224", 100, {"sites": "F1"}, 693_797, 0.69, "Table 10"),
    ("deit_base_patch16_224", 100, {"sites": "L1"}, 693_797, 0.69, "Table 10"),
    ("deit_base_patch16_224", 100, {"sites": "F5"}, 3_161_385, 3.17, "Table 10"),
    ("deit_base_patch16_224", 100, {"sites": "L5"}, 3_161_385, 3.17, "Table 10"),
    ("deit_base_patch16_224", 100, {"sites": "U5"}, 3_161_385, 3.17, "Table 10"),
]


@pytest.mark.parametrize(("backbone", "classes", "options", "ours", "paper", "where"), TABLE)
def test_counts_are_the_papers(backbone, classes, options, ours, paper, where):
    """Every published count comes out exactly as ours, and within 0.6 % of the printed digits."""
    architecture = describe(backbone)
    prompt = prompt_spec(architecture, **options)
    counts = count_parameters(prompt, head_spec(architecture, classes), architecture)
    assert counts["total"] == ours
    assert counts["prompt"] + counts["head"] == counts["total"]
    assert counts["total"] / 1e6 == pytest.approx(paper, rel=0.006), where


def test_the_command_prints_the_counts_for_a_program():
    """`protuning params --json` gives exactly the documented fields."""
    options = ["--classes", "100", "--kernel", "7", "--sites", "stage1,stage3", "--blocks", "2"]
    result = CliRunner().invoke(app, ["params", "resnet50", *options, "--json"])
    printed = json.loads(result.stdout)
    assert list(printed) == ["backbone", "classes", "prompt", "head", "total"]
    assert (printed["backbone"], printed["classes"]) == ("resnet50", 100)
    assert printed["head"] == 100 * 2048 + 100
    assert printed["prompt"] == 2 * (_block(256, 7) + _block(1024, 7))


def _block(channels: int, kernel: int) -> int:
    """Section 1 of the method, counted by hand: convolutions, three norms, SE, beta."""
    convolutions = 2 * (channels * channels // 4 + channels) + channels * kernel**2 + channels
    norms = 3 * 2 * channels
    squeezed = channels // 16
    return convolutions + norms + 2 * channels * squeezed + squeezed + channels + 1

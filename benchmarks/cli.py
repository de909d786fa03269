"""The commands `protuning bench ...`."""

import dataclasses
import json
from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(name="bench", help="Measure speed and memory on this machine.")


class Dtype(StrEnum):
    """What an engine computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@app.callback()
def bench() -> None:
    """Measure speed and memory on this machine."""


@app.command(epilog="Example: protuning bench engine --backbone resnet50 --batch 8 --json")
def engine(
    backbone: Annotated[str, typer.Option(help="A timm model.")] = "resnet50",
    weights: Annotated[str, typer.Option(help="PATH, hub or random.")] = "random",
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that take turns.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 8,
    dtype: Annotated[Dtype, typer.Option(help="What the engine computes in.")] = Dtype.FLOAT32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    classes: Annotated[int, typer.Option(min=1, help="Classes of each head.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs; medians count.")] = 7,
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,  # noqa: FBT002
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Compare batches in which every image is another task's with the bare backbone."""
    from adapters.backbone import load_backbone
    from benchmarks.engine import measure

    result = measure(
        load_backbone(backbone, weights),
        tasks=tasks,
        batch=batch,
        dtype=dtype.value,
        device=device,
        classes=classes,
        rounds=rounds,
        compile_stages=compiled,
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result)))
        return
    typer.echo(
        f"{result.backbone}, {result.dtype} on {result.device}: a mixed batch of {batch} images "
        f"runs at {result.ratio:.3f} of the bare backbone ({result.mixed_images_per_s:.1f} of "
        f"{result.bare_images_per_s:.1f} images/s)."
    )

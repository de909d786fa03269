"""The commands about adapters themselves: `params` and `inspect`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters import tables

if TYPE_CHECKING:
    from adapters.checkpoint import Checkpoint

app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command(epilog="Example: protuning params resnet50 --classes 120")
def params(
    backbone: Annotated[str, typer.Argument(help="A timm model, such as resnet50.")],
    classes: Annotated[int, typer.Option(min=1, help="Classes of the head.")],
    kernel: Annotated[int, typer.Option(help="Kernel of the depthwise convolution, odd.")] = 5,
    blocks: Annotated[int, typer.Option(min=1, help="Prompt blocks at each site.")] = 1,
    groups: Annotated[int, typer.Option(min=1, help="Groups of the 1x1 convolutions.")] = 4,
    sites: Annotated[
        str, typer.Option(help="stages, none, F1, F5, L1, L5, U5, or site names with commas.")
    ] = "stages",
    as_json: Json = False,  # noqa: FBT002  typer's way of writing a flag
) -> None:
    """Count the trainable parameters of an adapter, without any weights."""
    from adapters.backbone import describe
    from adapters.head import head_spec
    from adapters.model import count_parameters
    from adapters.prompt import prompt_spec

    architecture = describe(backbone)
    prompt = prompt_spec(
        architecture, sites=sites, blocks=blocks, kernel_size=kernel, groups=groups
    )
    head = head_spec(architecture, classes)
    counts = count_parameters(prompt, head, architecture)
    if as_json:
        typer.echo(json.dumps({"backbone": backbone, "classes": classes, **counts}))
        return
    tables.print_rows(
        ["part", "parameters"],
        [(part, f"{count:,}") for part, count in counts.items()],
        title=f"{backbone}, {classes} classes",
    )


@app.command(epilog="Example: protuning inspect runs/flowers/adapter.safetensors")
def inspect(
    adapter: Annotated[Path, typer.Argument(help="An adapter.safetensors file.")],
    as_json: Json = False,  # noqa: FBT002  typer's way of writing a flag
) -> None:
    """Verify a checkpoint and show what it is, where it comes from, and what it was made for."""
    from adapters.checkpoint import read

    checkpoint = read(adapter)
    if as_json:
        typer.echo(json.dumps(_summary(checkpoint)))
        return
    tables.print_fields(_summary(checkpoint), title=str(adapter))


def _summary(checkpoint: "Checkpoint") -> dict[str, object]:
    return {
        "digest": checkpoint.digest,
        "bytes": len(checkpoint.data),
        # Without the statistics of norms, as training counts.
        "parameters": sum(
            values.numel() for name, values in checkpoint.state.items() if ".running_" not in name
        ),
        **checkpoint.manifest.model_dump(mode="json"),
    }

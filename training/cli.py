"""The commands that make and measure adapters: `train` and `evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from adapters.flags import with_flags
from adapters.tables import print_fields
from training.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from training.directory import RunDirectory
    from training.evaluate import AdapterTask

app = typer.Typer()

INTERRUPTED = 130


def _given(text: str) -> str:
    """What was written for a path or name, which must be something."""
    if not text.strip():
        # As a path it would be the current folder.
        raise typer.BadParameter("It is empty: give a path or a name, or leave it out.")
    return text


def _path(text: str) -> Path:
    return Path(_given(text))


Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Corruptions = Annotated[
    bool, typer.Option("--corruptions", help="Also under 19 corruptions at 5 severities.")
]
Download = Annotated[bool, typer.Option("--download", help="Let timm download the data set.")]


@app.command(
    epilog="Example: protuning train flowers/ --backbone vit_tiny_patch16_224 --out runs/flowers"
)
@with_flags(TrainConfig, argument="data")
def train(
    out: Annotated[Path, typer.Option(parser=_path, help="The run's directory.")],
    config: Annotated[
        Path | None,
        typer.Option(parser=_path, help="A config.toml; flags go before it."),
    ] = None,
    resume: Resume = False,  # noqa: FBT002  typer's way of writing a flag
    overwrite: Overwrite = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
    **options: object,
) -> None:
    """Train an adapter on a folder of labelled images, and measure it."""
    from training.directory import RunDirectory
    from training.errors import Interrupted
    from training.methods import settle
    from training.progress import ConsoleObserver
    from training.run import train as run_training
    from training.summary import next_steps

    given = {name: value for name, value in options.items() if value is not None}
    directory = RunDirectory(out)
    settings = settle(_resumed(directory, given) if resume else _fresh(config, given))
    assert settings.epochs is not None  # noqa: S101  settled
    observer = ConsoleObserver(Console(stderr=True), settings.epochs)
    try:
        metrics = run_training(
            settings, directory, resume=resume, overwrite=overwrite, observers=[observer]
        )
    except Interrupted as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(INTERRUPTED) from error
    if metrics:
        _print_figures(metrics, f"{settings.method} in {out}", as_json=as_json)
        if not as_json:
            typer.echo(next_steps(settings, directory))


@app.command(
    epilog="Example: protuning evaluate runs/flowers/adapter.safetensors flowers/ --weights hub"
)
def evaluate(
    adapter: Annotated[Path, typer.Argument(parser=_path, help="An adapter.safetensors file.")],
    data: Annotated[
        str,
        typer.Argument(parser=_given, help="Folder, archive or timm name; its test split."),
    ],
    weights: Annotated[
        str,
        typer.Option(
            parser=_given,
            help="Of the backbone: a safetensors file, hub, or random.",
        ),
    ] = "hub",
    class_map: Annotated[
        Path | None,
        typer.Option(
            parser=_path,
            help="JSON, or lines of NAME<TAB>LABEL: classes that take part.",
        ),
    ] = None,
    corruptions: Corruptions = False,  # noqa: FBT002
    data_root: Annotated[
        Path | None,
        typer.Option(parser=_path, help="Where a timm name's files lie."),
    ] = None,
    download: Download = False,  # noqa: FBT002
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Measure an adapter on labelled images, in float32."""
    from adapters.backbone import load_backbone
    from adapters.checkpoint import read
    from training.data.scenarios import read_class_map
    from training.evaluate import open_adapter_task
    from training.machine import find_device

    checkpoint = read(adapter)
    task = open_adapter_task(
        checkpoint,
        load_backbone(checkpoint.manifest.backbone.name, weights),
        data,
        class_map=read_class_map(class_map) if class_map else None,
        root=data_root,
        download=download,
    )
    figures = _measure(task, find_device(device), corruptions=corruptions)
    _print_figures(figures, str(adapter), as_json=as_json)


def _measure(
    task: "AdapterTask", device: "torch.device", *, corruptions: bool
) -> "Mapping[str, object]":
    """The figures of an adapter, 0 to 1, and by class and corruption."""
    from training.evaluate import evaluate_adapter, evaluate_corruptions

    measured = evaluate_adapter(task, device=device).evaluation
    figures = {
        "top1": measured.top1,
        "top5": measured.top5,
        "loss": measured.loss,
        "images": measured.images,
        "per_class": dict(zip(task.labels, measured.per_class, strict=True)),
    }
    if not corruptions:
        return figures
    table = evaluate_corruptions(task.model, task.samples, task.preprocessing, device=device)
    return figures | {"corruption_top1": table.mean, "corruptions": dict(table.top1)}


def _fresh(config: Path | None, given: dict[str, object]) -> TrainConfig:
    """The configuration of a new run: the file's, where flags say nothing else."""
    from training.config import make_config, read_options

    options = (read_options(config) if config else {}) | given
    return make_config({name: _absolute(name, value) for name, value in options.items()})


def _absolute(name: str, value: object) -> object:
    """A path that works from any folder, so that config.toml does; else the value itself."""
    # Nothing at all would be the current folder; the configuration refuses it.
    if name not in ("data", "weights", "data_root") or not str(value).strip():
        return value
    path = Path(str(value))
    return str(path.absolute()) if path.exists() else value


def _resumed(directory: "RunDirectory", given: dict[str, object]) -> TrainConfig:
    """The configuration of the run in the directory, which flags must not contradict."""
    from training.config import make_config, read_options
    from training.errors import OtherRun

    config = make_config(read_options(directory.reopen()))
    for name, value in given.items():
        if getattr(config, name) != _absolute(name, value):
            raise OtherRun(
                f"The run in {directory.path} has {name} = {getattr(config, name)}, not {value}. "
                "Resume it without other flags, or start another run with another --out."
            )
    return config


def _print_figures(figures: "Mapping[str, object]", title: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(figures))
        return
    from training.summary import readable

    # Not the table's own title, which would be broken at the table's width.
    typer.echo(title)
    print_fields(dict(readable(figures)))

"""The commands `protuning bench ...`."""

import asyncio
import dataclasses
import json
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(name="bench", help="Measure speed and memory on this machine.")


class Dtype(StrEnum):
    """What an engine computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    AUTO = "auto"


class Kind(StrEnum):
    """Which engine."""

    TORCH = "torch"
    COMPILED = "compiled"
    ONNX = "onnx"
    AUTO = "auto"


Backbone = Annotated[str, typer.Option(help="A timm model.")]
Weights = Annotated[str, typer.Option(help="PATH, hub or random.")]
Tasks = Annotated[int, typer.Option(min=1, help="Tasks that take turns.")]
Batch = Annotated[int, typer.Option(min=1, help="Most images in a batch.")]
EngineChoice = Annotated[
    Kind, typer.Option("--engine", help="Which engine: torch, compiled, onnx or auto.")
]
Precision = Annotated[Dtype, typer.Option(help="What the engine computes in.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Length of each run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def bench() -> None:
    """Measure speed and memory on this machine."""
    from service.heap import prefer_huge_pages

    prefer_huge_pages()
    from service import logs

    # To stderr: figures alone go to stdout.
    logs.configure("info", "text")


@app.command(epilog="Example: protuning bench engine --backbone resnet50 --batch 8 --json")
def engine(
    backbone: Backbone = "resnet50",
    weights: Weights = "random",
    tasks: Tasks = 8,
    batch: Batch = 8,
    dtype: Precision = Dtype.FLOAT32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    classes: Annotated[int, typer.Option(min=1, help="Classes of each head.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs; medians count.")] = 7,
    kind: EngineChoice = Kind.TORCH,
    as_json: Json = False,  # noqa: FBT002
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
        kind=kind.value,
    )
    _report(
        dataclasses.asdict(result),
        f"{result.backbone}, {result.engine} in {result.dtype} on {result.device}: a mixed batch "
        f"of {batch} images runs at {result.ratio:.3f} of the bare backbone "
        f"({result.mixed_images_per_s:.1f} of {result.bare_images_per_s:.1f} images/s) and "
        f"{result.over_timm:.2f} times as fast as timm's model in float32.",
        as_json=as_json,
    )


@app.command(epilog="Example: protuning bench steady --backbone vit_tiny_patch16_224 --json")
def steady(
    backbone: Backbone = "resnet50",
    weights: Weights = "random",
    tasks: Annotated[int, typer.Option(min=2, help="Half of them fit at a time.")] = 16,
    batch: Batch = 8,
    kind: EngineChoice = Kind.COMPILED,
    dtype: Precision = Dtype.AUTO,
    batches: Annotated[int, typer.Option(min=10, help="How many batches run.")] = 10_000,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Run thousands of mixed batches while adapters come and go: nothing may grow or compile."""
    from adapters.backbone import load_backbone
    from benchmarks.steady import measure

    result = measure(
        load_backbone(backbone, weights),
        tasks=tasks,
        batch=batch,
        kind=kind.value,
        dtype=dtype.value,
        batches=batches,
    )
    _report(
        dataclasses.asdict(result),
        f"{result.backbone}, {result.engine} in {result.dtype}: {batches} batches and "
        f"{result.loads} loads compiled nothing anew, memory grew by {result.grown_mib:.1f} MiB, "
        f"and the last batches ran at {result.last_over_settled:.2f} of the speed of the first.",
        as_json=as_json,
    )


@app.command(epilog="Example: protuning bench precision RUN/adapter.safetensors DATA.tar --json")
def precision(
    adapter: Annotated[Path, typer.Argument(help="A servable adapter.")],
    data: Annotated[str, typer.Argument(help="Labelled images; the test split counts.")],
    weights: Weights = "hub",
    batch: Batch = 8,
    kind: EngineChoice = Kind.COMPILED,
    dtype: Precision = Dtype.BFLOAT16,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Compare an engine's answers on real images with the adapter's own model in float32."""
    from adapters.backbone import load_backbone
    from adapters.checkpoint import read
    from benchmarks.precision import measure

    checkpoint = read(adapter)
    result = measure(
        load_backbone(checkpoint.manifest.backbone.name, weights),
        checkpoint,
        data,
        kind=kind.value,
        dtype=dtype.value,
        batch=batch,
    )
    _report(
        dataclasses.asdict(result),
        f"{result.backbone}, {result.engine} in {result.dtype}: top-1 {result.engine_top1:.2%} on "
        f"{result.images} images, {result.oracle_top1:.2%} in float32 by one model; the same "
        f"answer to {result.agreement:.2%}.",
        as_json=as_json,
    )


@app.command(epilog="Example: protuning bench http --backbone resnet50 --batch 8 --json")
def http(
    backbone: Backbone = "resnet50",
    weights: Weights = "random",
    tasks: Tasks = 8,
    batch: Batch = 8,
    kind: EngineChoice = Kind.TORCH,
    dtype: Precision = Dtype.FLOAT32,
    workers: Annotated[int, typer.Option(min=0, help="HTTP processes; 0 for one process.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs; medians count.")] = 5,
    seconds: Seconds = 10.0,
    as_json: Json = False,  # noqa: FBT002  typer's way of writing a flag
) -> None:
    """Compare 224-pixel JPEGs over HTTP with the engine alone, the client's share apart."""
    from adapters.backbone import load_backbone
    from benchmarks.http import measure

    result = asyncio.run(
        measure(
            load_backbone(backbone, weights),
            tasks=tasks,
            batch=batch,
            kind=kind.value,
            dtype=dtype.value,
            http_workers=workers,
            rounds=rounds,
            seconds=seconds,
        )
    )
    _report(
        dataclasses.asdict(result),
        f"{result.backbone}, {result.dtype}, {result.cores} cores: HTTP runs at {result.ratio:.3f} "
        f"of the engine alone ({result.http_images_per_s:.1f} of "
        f"{result.engine_images_per_s:.1f} images/s).",
        as_json=as_json,
    )


@app.command(epilog="Example: protuning bench latency --backbone resnet50 --loads 0.3,0.7,0.9")
def latency(
    backbone: Backbone = "resnet50",
    weights: Weights = "random",
    tasks: Tasks = 8,
    batch: Batch = 8,
    kind: EngineChoice = Kind.TORCH,
    dtype: Precision = Dtype.FLOAT32,
    loads: Annotated[str, typer.Option(help="Shares of the capacity.")] = "0.1,0.3,0.5,0.7,0.9",
    seconds: Seconds = 20.0,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Latencies over HTTP when requests come at random times, at shares of the capacity."""
    from adapters.backbone import load_backbone
    from benchmarks.http import latencies

    found = asyncio.run(
        latencies(
            load_backbone(backbone, weights),
            tasks=tasks,
            batch=batch,
            kind=kind.value,
            dtype=dtype.value,
            loads=[float(share) for share in loads.split(",")],
            seconds=seconds,
        )
    )
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in found]))
        return
    for each in found:
        typer.echo(
            f"offered {each.offered:6.1f}/s  answered {each.answered:6.1f}/s  refused "
            f"{each.refused}  p50 {each.p50_ms:7.1f} ms  p99 {each.p99_ms:7.1f} ms"
        )


@app.command(epilog="Example: protuning bench tiers --backbone vit_tiny_patch16_224 --json")
def tiers(
    backbone: Backbone = "vit_tiny_patch16_224",
    weights: Weights = "random",
    tasks: Annotated[str, typer.Option(help="Numbers of tasks.")] = "1,16,256,1024,4096",
    batch: Batch = 16,
    kind: EngineChoice = Kind.TORCH,
    dtype: Precision = Dtype.FLOAT32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    classes: Annotated[int, typer.Option(min=1, help="Classes of each head.")] = 100,
    seconds: Seconds = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs; medians count.")] = 3,
    directory: Annotated[
        Path | None, typer.Option(help="Where the store is made: it takes 1 MB a task and more.")
    ] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Compare one task with thousands: in the engine, and loaded when they are wanted."""
    from adapters.backbone import load_backbone
    from benchmarks.tiers import Plan, measure

    plan = Plan(tuple(int(number) for number in tasks.split(",")), batch, classes, seconds, rounds)
    with tempfile.TemporaryDirectory(dir=directory) as place:
        result = asyncio.run(
            measure(
                load_backbone(backbone, weights),
                Path(place),
                plan,
                weights=weights,
                kind=kind.value,
                dtype=dtype.value,
                device=device,
            )
        )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result)))
        return
    typer.echo(
        f"{result.backbone}, {result.engine} in {result.dtype} on {result.device}: one task "
        f"{result.one_task_images_per_s:.1f} images/s; {result.bytes_per_task_ratio:.3f} of its "
        "parameters' bytes a task"
    )
    for row in result.rows:
        typer.echo(
            f"{row.tasks:>6} tasks, {row.resident:>6} resident, {row.traffic}: {row.ratio:.3f}, "
            f"hits {row.hit_rate:.3f}, p50 {row.p50_ms:.1f} ms, p99 {row.p99_ms:.1f} ms"
        )
    typer.echo(f"cold: {result.cold}")
    typer.echo(f"storm: {result.storm}")


@app.command(epilog="Example: protuning bench index redis://localhost:6379/9 --json")
def index(
    url: Annotated[str, typer.Argument(help="Of an index for this only; an empty one is filled.")],
    tasks: Annotated[int, typer.Option(min=1, help="Registered tasks.")] = 100_000,
    times: Annotated[int, typer.Option(min=1, help="How often each operation is timed.")] = 1_000,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Time the operations of an index that has many tasks."""
    from benchmarks.index import measure

    results = asyncio.run(measure(url, tasks=tasks, times=times))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(result) for result in results]))
        return
    for result in results:
        typer.echo(f"{result.name}: p50 {result.p50_ms:.2f} ms, p99 {result.p99_ms:.2f} ms")


@app.command(epilog="Example: protuning bench tenants --backbone vit_tiny_patch16_224 --rounds 3")
def tenants(
    backbone: Backbone = "resnet50",
    weights: Weights = "random",
    tenants: Annotated[int, typer.Option(min=2, help="One of them floods.")] = 4,
    batch: Batch = 8,
    kind: EngineChoice = Kind.TORCH,
    dtype: Precision = Dtype.FLOAT32,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs; medians count.")] = 3,
    seconds: Seconds = 20.0,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What tenants keep of their share, and wait, while another one sends twenty times its own."""
    from adapters.backbone import load_backbone
    from benchmarks.tenants import measure

    result = asyncio.run(
        measure(
            load_backbone(backbone, weights),
            tenants=tenants,
            batch=batch,
            kind=kind.value,
            dtype=dtype.value,
            rounds=rounds,
            seconds=seconds,
        )
    )
    _report(
        dataclasses.asdict(result),
        f"{result.backbone}, {result.dtype}, {tenants} tenants that fill the engine: beside a "
        f"flood of twenty shares the others keep {result.kept:.3f} of theirs, and their p99 is "
        f"{result.p99_ratio:.2f} of that without it.",
        as_json=as_json,
    )


def _report(figures: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    """Print what was measured: all figures as JSON, or the sentence."""
    typer.echo(json.dumps(figures) if as_json else sentence)

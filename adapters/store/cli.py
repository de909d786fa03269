"""The commands on a store without a server: `protuning store copy` and `collect`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.store.copying import Copied, Store
    from adapters.store.index import TaskDump

app = typer.Typer(
    name="store", help="Move stores, and delete what they need no more.", no_args_is_help=True
)

Sure = Annotated[
    bool, typer.Option("--sure", help="Also where the index knows little of the store.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command(
    epilog="Example: protuning store copy sqlite:////var/lib/protuning/index.db "
    "/var/lib/protuning/store redis://redis:6379/0 s3://bucket/protuning"
)
def copy(
    from_index: Annotated[
        str, typer.Argument(envvar="PROTUNING_FROM_INDEX", help="The URL of the index to read.")
    ],
    from_store: Annotated[
        str, typer.Argument(envvar="PROTUNING_FROM_STORE", help="Where its checkpoints lie.")
    ],
    to_index: Annotated[
        str, typer.Argument(envvar="PROTUNING_TO_INDEX", help="The URL of the index to write.")
    ],
    to_store: Annotated[
        str, typer.Argument(envvar="PROTUNING_TO_STORE", help="Where the checkpoints go.")
    ],
    as_json: Json = False,  # noqa: FBT002  typer's way of writing a flag
) -> None:
    """Copy all tasks, versions, keys and limits into another store; again to catch up.

    Every checkpoint is verified. A copy that was interrupted goes on where it was. Register nothing
    through the old store while the last copy runs.
    """
    copied = asyncio.run(_copy((from_index, from_store), (to_index, to_store)))
    if as_json:
        typer.echo(json.dumps(asdict(copied)))
        return
    typer.echo(
        f"{copied.tasks} tasks with {copied.blobs} checkpoints are there; {copied.new_tasks} tasks "
        f"and {copied.new_blobs} checkpoints were new or had changed."
    )


@app.command(epilog="Example: protuning store collect redis://redis:6379/0 s3://bucket/protuning")
def collect(
    index: Annotated[str, typer.Argument(envvar="PROTUNING_INDEX", help="The URL of the index.")],
    store: Annotated[
        str, typer.Argument(envvar="PROTUNING_STORE", help="Where its checkpoints lie.")
    ],
    sure: Sure = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Delete the checkpoints that no version has any more, once they are an hour old.

    Servers do so by themselves. Name the index that belongs to the store: what it does not know is
    deleted.
    """
    deleted = asyncio.run(_collect(index, store, sure=sure))
    typer.echo(json.dumps(deleted) if as_json else f"Checkpoints deleted: {len(deleted)}.")


async def _copy(source: tuple[str, str], target: tuple[str, str]) -> "Copied":
    from adapters.container import ContainerLimits
    from adapters.store.copying import copy_store
    from adapters.store.opening import require_index

    require_index(source[0])

    def show(task: "TaskDump") -> None:
        typer.echo(f"{task.key.tenant}/{task.key.task}", err=True)

    async with _opened(*source) as old, _opened(*target) as new:
        return await copy_store(
            old, new, max_bytes=ContainerLimits().max_bytes, now=time.time(), progress=show
        )


async def _collect(index: str, store: str, *, sure: bool) -> list[str]:
    from adapters.checkpoint import parse
    from adapters.container import ContainerLimits
    from adapters.store.opening import require_index
    from adapters.store.registry import Registry

    require_index(index)
    async with _opened(index, store) as opened:
        registry = Registry(
            opened.blobs, opened.index, parse, max_bytes=ContainerLimits().max_bytes
        )
        return await registry.collect_garbage(now=time.time(), sure=sure)


@asynccontextmanager
async def _opened(index: str, store: str) -> "AsyncIterator[Store]":
    from adapters.container import digest_of
    from adapters.store.blobs import BlobStore
    from adapters.store.copying import Store
    from adapters.store.opening import open_index, open_records

    opened = Store(open_index(index), open_records(index), BlobStore(store, digest_of))
    try:
        yield opened
    finally:
        await opened.records.close()
        await opened.index.close()

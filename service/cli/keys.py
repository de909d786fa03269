"""The commands `keys ...`."""

import asyncio
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from service.cli.connection import DEFAULT_URL, ApiKey, Url, client
from service.cli.output import Json, all_items, show, show_all
from service.cli.parameters import wrong_parameter

if TYPE_CHECKING:
    from service.http.schemas import CreatedKey, NewKey

DAY = 86_400

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


class Scope(StrEnum):
    """What a key may be good for."""

    PREDICT = "predict"
    MANAGE = "manage"
    ADMIN = "admin"


def _above_zero(days: float | None) -> float | None:
    if days is not None and not days > 0:
        raise typer.BadParameter("it would never hold; give days above 0, or leave it out.")
    return days


@app.command(epilog="Example: protuning keys create --tenant acme --scope predict --scope manage")
def create(
    tenant: Annotated[str, typer.Option(help="Whose tasks it opens.")] = "default",
    scope: Annotated[list[Scope], typer.Option(help="What it may do; may be repeated.")] = [  # noqa: B006
        Scope.PREDICT
    ],
    name: Annotated[str, typer.Option(help="A note for people.")] = "",
    expires_days: Annotated[
        float | None, typer.Option(callback=_above_zero, help="Days that it holds, above 0.")
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="Write into this index, sqlite:///PATH say: needs no server.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Create a key. It is shown this once and kept nowhere."""
    from service.http.schemas import NewKey

    try:
        wanted = NewKey(
            tenant=tenant,
            scopes=frozenset(each.value for each in scope),
            name=name,
            expires_at=None if expires_days is None else time.time() + DAY * expires_days,
        )
    except ValidationError as error:
        raise wrong_parameter(error) from error
    if index is None:
        with client(url, key) as server:
            created = server.create_key(wanted)
    else:
        created = asyncio.run(_create(index, wanted))
    if as_json:
        typer.echo(created.model_dump_json())
    else:
        typer.echo(f"Key {created.id} of tenant {tenant}, shown this once:", err=True)
        typer.echo(created.key)


async def _create(index: str, wanted: "NewKey") -> "CreatedKey":
    from adapters.store.opening import index_exists, open_records
    from service.http.schemas import CreatedKey
    from service.keys import KeyRing
    from service.policies import Policies
    from service.tenants import Key

    if not index_exists(index):
        typer.echo(f"There was no index at {index}: this one is new, and empty.", err=True)
    records = open_records(index)
    try:
        ring = KeyRing(Policies(records, (Key,)), required=True)
        made, token = await ring.create(
            wanted.tenant, wanted.scopes, name=wanted.name, expires_at=wanted.expires_at
        )
        return CreatedKey.with_token(made, token)
    finally:
        await records.close()


@app.command("list", epilog="Example: protuning keys list --tenant acme --json")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """The keys, by their ids: revoked ones too."""
    with client(url, key) as server:
        found = all_items(lambda cursor: server.keys(tenant=tenant, cursor=cursor))
    show_all(found, as_json=as_json)


@app.command(epilog="Example: protuning keys revoke 0f1e2d3c4b5a6978")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Revoke a key for good."""
    with client(url, key) as server:
        revoked = server.revoke_key(key_id)
    show(revoked, as_json=as_json)

"""The commands `tenants ...`."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli.connection import DEFAULT_URL, ApiKey, Url, client
from service.cli.output import Json, all_items, show, show_all
from service.cli.parameters import wrong_parameter

app = typer.Typer(help="Look at tenants, and limit them.", no_args_is_help=True)
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]


@app.command("list", epilog="Example: protuning tenants list --json")
def list_tenants(url: Url = DEFAULT_URL, key: ApiKey = None, as_json: Json = False) -> None:  # noqa: FBT002
    """The tenants for which limits were set."""
    with client(url, key) as server:
        found = all_items(lambda cursor: server.tenants(cursor=cursor))
    show_all(found, as_json=as_json)


@app.command("show", epilog="Example: protuning tenants show acme --json")
def show_tenant(
    tenant: TenantName,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What holds for a tenant, and what it has stored."""
    with client(url, key) as server:
        show(server.tenant(tenant), as_json=as_json)


@app.command(epilog="Example: protuning tenants limit acme --images-per-second 50 --weight 2")
def limit(
    tenant: TenantName,
    requests_per_second: float | None = None,
    images_per_second: float | None = None,
    concurrent_images: int | None = None,
    tasks: int | None = None,
    stored_bytes: int | None = None,
    weight: float | None = None,
    priority: int | None = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Set a tenant's limits; for those that are not named the server's defaults hold again."""
    from service.http.schemas import TenantOverrides

    named = {
        "requests_per_second": requests_per_second,
        "images_per_second": images_per_second,
        "concurrent_images": concurrent_images,
        "tasks": tasks,
        "stored_bytes": stored_bytes,
        "weight": weight,
        "priority": priority,
    }
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    try:
        overrides = TenantOverrides(**given)
    except ValidationError as error:
        raise wrong_parameter(error) from error
    with client(url, key) as server:
        show(server.limit_tenant(tenant, overrides), as_json=as_json)


@app.command(epilog="Example: protuning tenants reset acme")
def reset(
    tenant: TenantName,
    url: Url = DEFAULT_URL,
    key: ApiKey = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Let the server's defaults hold for a tenant."""
    with client(url, key) as server:
        show(server.reset_tenant(tenant), as_json=as_json)

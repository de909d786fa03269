"""The commands around a server: the server itself, and its clients."""

import typer

from service.cli import keys, predictions, releases, serving, tasks, tenants

app = typer.Typer()
app.add_typer(serving.app)
app.add_typer(predictions.app)
tasks.app.add_typer(releases.app)
app.add_typer(tasks.app, name="tasks")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")

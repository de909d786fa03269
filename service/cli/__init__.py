"""The commands around a server: the server itself, and its clients."""

import typer

from service.cli import keys, predictions, serving, tasks

app = typer.Typer()
app.add_typer(serving.app)
app.add_typer(predictions.app)
app.add_typer(tasks.app, name="tasks")
app.add_typer(keys.app, name="keys")

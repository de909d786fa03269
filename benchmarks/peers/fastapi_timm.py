"""FastAPI with timm in eager mode and one full model a task: what most people write first."""

import argparse
from typing import Any

import models
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool


def create_app(backbone: str, tasks: int) -> FastAPI:
    """Models in a dictionary, one request one forward pass, off the event loop."""
    app = FastAPI()
    loaded = {f"task{number}": models.load(backbone, number) for number in range(tasks)}
    preprocess = models.Preprocessing(backbone)

    def run(task: str, data: bytes) -> dict[str, Any]:
        return models.answer(loaded[task], preprocess(data)[None])[0]

    @app.post("/tasks/{task}/predict")
    async def predict(task: str, request: Request) -> dict[str, Any]:
        return await run_in_threadpool(run, task, await request.body())

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("tasks", type=int)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    uvicorn.run(create_app(given.backbone, given.tasks), port=given.port, log_level="warning")

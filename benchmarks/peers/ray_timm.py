"""Ray Serve with multiplexing: one full model a task, loaded on demand, the latest ones kept."""

import argparse
import os
from typing import Any

import models
import torch
from ray import serve
from starlette.requests import Request


def deployment(backbone: str, tasks: int) -> Any:  # noqa: ANN401  Ray's decorated classes
    """All models fit, so that nothing is loaded twice: multiplexing at its best."""

    @serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
    class Tasks:
        def __init__(self) -> None:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
            self._preprocess = models.Preprocessing(backbone)

        @serve.multiplexed(max_num_models_per_replica=tasks)
        async def model(self, model_id: str) -> torch.nn.Module:
            return models.load(backbone, int(model_id))

        async def __call__(self, request: Request) -> dict[str, Any]:
            model = await self.model(serve.get_multiplexed_model_id())
            return models.answer(model, self._preprocess(await request.body())[None])[0]

    return Tasks.bind()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("tasks", type=int)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    serve.start(http_options={"port": given.port})
    serve.run(deployment(given.backbone, given.tasks), blocking=True)

"""LitServe with one full model a task: its batches, cut by task, since each is another model."""

import argparse
import base64
from typing import Any

import litserve as ls
import models
import torch
from torch import Tensor


class Tasks(ls.LitAPI):
    """A JSON request names its task and holds its image in base64, as LitServe's examples do."""

    def __init__(self, backbone: str, tasks: int) -> None:
        super().__init__(max_batch_size=8, batch_timeout=0.002)
        self._backbone, self._tasks = backbone, tasks

    def setup(self, device: str) -> None:  # noqa: ARG002  LitServe's signature
        """Once, in the process that predicts."""
        self._models = [models.load(self._backbone, number) for number in range(self._tasks)]
        self._preprocess = models.Preprocessing(self._backbone)

    def decode_request(self, request: dict[str, Any]) -> tuple[int, Tensor]:
        """A request as its task and pixels."""
        return request["task"], self._preprocess(base64.b64decode(request["image"]))

    def batch(self, inputs: list[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
        """Requests stay apart: they are for different models."""
        return inputs

    def predict(self, batch: list[tuple[int, Tensor]]) -> list[dict[str, Any]]:
        """Each task's images through its model."""
        answers: list[dict[str, Any]] = [{} for _ in batch]
        for task in {task for task, _ in batch}:
            rows = [row for row, (of, _) in enumerate(batch) if of == task]
            images = torch.stack([batch[row][1] for row in rows])
            for row, found in zip(rows, models.answer(self._models[task], images), strict=True):
                answers[row] = found
        return answers

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """They have stayed apart."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("tasks", type=int)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    server = ls.LitServer(Tasks(given.backbone, given.tasks), accelerator="cpu")
    server.run(port=given.port, log_level="warning", generate_client_file=False)

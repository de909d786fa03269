"""Predictions about any number of files, in as many requests as the server's limits need."""

import re
from collections.abc import Sequence
from pathlib import Path

from service.calls import Refused
from service.client import Client
from service.http.schemas import Prediction, Timing

# What servers take by default; one that takes fewer says so.
MOST_IMAGES = 64
_TOO_MUCH = ("too-many-images", "too-many-labels", "body-too-large")
_NUMBERED = re.compile(r"Image (\d+) of \d+: (.*)", re.DOTALL)


def ask(
    server: Client,
    tasks: Sequence[str],
    files: Sequence[Path],
    *,
    version: int | None,
    **options: int | None,
) -> list[Prediction]:
    """What each of `tasks` sees in all of `files`; for `options` see `Client.predict_many`.

    Later requests ask for the versions that answered the first one.

    Raises:
        ClientError: a request failed; where it was for one file's sake, that is named.
    """
    versions = [version for _ in tasks]
    answers: list[list[Prediction]] = []
    most, done = MOST_IMAGES, 0
    while done < len(files):
        piece = files[done : done + most]
        try:
            answers.append(_ask_once(server, tasks, versions, piece, options))
        except Refused as error:
            if error.kind not in _TOO_MUCH or len(piece) == 1:
                raise _naming_file(error, piece) from error
            most = len(piece) // 2
            continue
        versions = [each.version for each in answers[-1]]
        done += len(piece)
    return [_joined(parts) for parts in zip(*answers, strict=True)]


def _ask_once(
    server: Client,
    tasks: Sequence[str],
    versions: Sequence[int | None],
    files: Sequence[Path],
    options: dict[str, int | None],
) -> list[Prediction]:
    if len(tasks) > 1 and None in versions:
        return server.predict_many(tasks, files, **options).results
    return [
        server.predict(task, files, version=version, **options)
        for task, version in zip(tasks, versions, strict=True)
    ]


def _naming_file(error: Refused, files: Sequence[Path]) -> Refused:
    """The same refusal; the server knows images by their number, people by their file."""
    if numbered := _NUMBERED.fullmatch(error.problem.detail):
        return error.with_detail(f"{files[int(numbered[1]) - 1]}: {numbered[2]}")
    if error.kind in _TOO_MUCH:
        return error.with_detail(f"{files[0]}: {error.problem.detail}")
    return error


def _joined(parts: Sequence[Prediction]) -> Prediction:
    """One task's answers to several requests as one: their times add up."""
    timings = [part.timing for part in parts]
    timing = Timing(
        decode_ms=sum(each.decode_ms for each in timings),
        load_ms=sum(each.load_ms for each in timings),
        queue_ms=sum(each.queue_ms for each in timings),
        compute_ms=sum(each.compute_ms for each in timings),
        batch_images=max(each.batch_images for each in timings),
        batch_tasks=max(each.batch_tasks for each in timings),
    )
    predictions = [prediction for part in parts for prediction in part.predictions]
    return parts[0].model_copy(update={"predictions": predictions, "timing": timing})

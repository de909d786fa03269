"""The engine's side of a batch: one pass for all segments, and who is to blame when it fails."""

import structlog
import torch
from torch import Tensor

from service.engines.base import Engine, EngineBatch, EngineSegment, Slot
from service.errors import EngineFailed
from service.types import Batch, Part

log = structlog.get_logger(__name__)


def run_batch(engine: Engine, batch: Batch[Tensor]) -> list[Tensor | Exception]:
    """For each segment its logits [images, classes], or what the engine raised for it.

    The payload of an item is its images, uint8 [n, H, W, 3]; a segment's key is its slot. Where
    the mixed batch raises, its segments run one by one, so that only the guilty one fails.
    """
    try:
        return [*_run(engine, batch)]
    except Exception as error:
        log.warning("engine_raised", segments=len(batch.segments), exc_info=error)
        if len(batch.segments) == 1:
            return [error]
    return [run_batch(engine, Batch((segment,)))[0] for segment in batch.segments]


def _run(engine: Engine, batch: Batch[Tensor]) -> list[Tensor]:
    logits = engine.run(assemble(batch))
    if [len(rows) for rows in logits] != [segment.images for segment in batch.segments]:
        raise EngineFailed("The engine gave logits for other rows than it got. Report this bug.")
    return logits


def assemble(batch: Batch[Tensor]) -> EngineBatch:
    """The batch as engines take it; images that several items share are in it once."""
    parts = [part for segment in batch.segments for part in segment.parts]
    images, rows = _shared_images(parts)
    segments = []
    start = 0
    for segment in batch.segments:
        assert isinstance(segment.key, Slot)  # noqa: S101  the dispatcher makes no other items
        segments.append(EngineSegment(segment.key, start, start + segment.images))
        start += segment.images
    return EngineBatch(images, rows, tuple(segments))


def _shared_images(parts: list[Part[Tensor]]) -> tuple[Tensor, Tensor | None]:
    """All images once [U, H, W, 3], and which one each row runs: None where each has its own."""
    rows = torch.cat([part.item.payload[part.start : part.stop] for part in parts])
    names = [
        (id(part.item.payload), image) for part in parts for image in range(part.start, part.stop)
    ]
    first_rows: dict[tuple[int, int], int] = {}
    for row, name in enumerate(names):
        first_rows.setdefault(name, row)
    if len(first_rows) == len(names):
        return rows, None
    numbers = {name: number for number, name in enumerate(first_rows)}
    return rows[[*first_rows.values()]], torch.tensor([numbers[name] for name in names])

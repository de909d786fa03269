"""The engine's side of a batch: one pass for all segments, and who is to blame when it fails."""

import structlog
import torch
from torch import Tensor

from service.engines.base import Engine, EngineBatch, EngineSegment, Slot
from service.errors import EngineFailed
from service.types import Batch, Part

# The tensor that it is in, and its number there.
_ImageName = tuple[int, int]

log = structlog.get_logger(__name__)


def run_batch(engine: Engine, batch: Batch[Tensor]) -> list[Tensor | Exception]:
    """For each segment its logits [images, classes], or what the engine raised for it.

    The payload of an item is its images, uint8 [n, H, W, 3] or normalised float32 [n, 3, H, W]; a
    segment's key is its slot. Where
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
    segments = []
    start = 0
    for segment in batch.segments:
        assert isinstance(segment.key, Slot)  # noqa: S101  the dispatcher makes no other items
        segments.append(EngineSegment(segment.key, start, start + segment.images))
        start += segment.images
    names = [name for part in parts for name in _names(part)]
    has_normalised = any(part.item.payload.dtype != torch.uint8 for part in parts)
    if len({*names}) < len(names) or has_normalised:
        return _numbered(parts, names, tuple(segments))
    images = torch.cat([part.item.payload[part.start : part.stop] for part in parts])
    return EngineBatch(images, None, tuple(segments))


def _names(part: Part[Tensor]) -> list[_ImageName]:
    return [(id(part.item.payload), image) for image in range(part.start, part.stop)]


def _numbered(
    parts: list[Part[Tensor]], names: list[_ImageName], segments: tuple[EngineSegment, ...]
) -> EngineBatch:
    """A batch whose rows share images, or whose images are of both kinds."""
    images = {
        name: image
        for part in parts
        for name, image in zip(_names(part), part.item.payload[part.start : part.stop], strict=True)
    }
    pixels = {name: image for name, image in images.items() if image.dtype == torch.uint8}
    normalised = {name: image for name, image in images.items() if name not in pixels}
    numbers = {name: number for number, name in enumerate([*pixels, *normalised])}
    rows = torch.tensor([numbers[name] for name in names])
    if not normalised:
        return EngineBatch(torch.stack([*pixels.values()]), rows, segments)
    more_VCHW = torch.stack([*normalised.values()])
    none_UHWC = torch.empty(0, *more_VCHW.shape[2:], 3, dtype=torch.uint8)
    images_UHWC = torch.stack([*pixels.values()]) if pixels else none_UHWC
    return EngineBatch(images_UHWC, rows, segments, more_VCHW)

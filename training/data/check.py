"""Decode every image once: find the broken ones, and take the set's digest on the way."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from adapters.errors import ImageError
from adapters.preprocess import decode
from training.data.classes import check_no_empty_class
from training.data.samples import LIMITS, DataSplits, Progress, Sample
from training.errors import EmptyDataset, UnreadableImages

_NAMED = 10
_CHUNK = 32


@dataclass(frozen=True)
class Broken:
    """An image that cannot be used, and why. `name` begins with the split."""

    name: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """Splits in which every image decodes, those left out, and the sha256 of the rest.

    The digest covers split, name, class name and bytes of every image, in sorted order: a folder
    and an archive of it have the same.
    """

    splits: DataSplits
    broken: tuple[Broken, ...]
    digest: str


def check_images(
    splits: DataSplits,
    *,
    skip_broken: bool = False,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Checked:
    """Decode all images, in parallel; `on_progress(done, total)` is called now and then.

    A truncated image shows only when it is decoded to its end, hence the whole pass.

    Raises:
        UnreadableImages: some are broken, and `skip_broken` is off.
        EmptyClass: skipping leaves a class without a training image.
        EmptyDataset: skipping leaves a split without an image.
    """
    placed = [(split, sample) for split, samples in splits.by_name().items() for sample in samples]
    findings = _inspect_all([sample for _, sample in placed], threads, on_progress)
    kept: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    broken: list[Broken] = []
    lines: list[str] = []
    for (split, sample), finding in zip(placed, findings, strict=True):
        if isinstance(finding, str):
            broken.append(Broken(f"{split}: {sample.name}", finding))
            continue
        kept[split].append(sample)
        class_name = splits.class_names[sample.label]
        lines.append("\0".join((split, sample.name, class_name, finding.hex())))
    if broken and not skip_broken:
        raise UnreadableImages(_report(broken, len(placed)))
    left = replace(splits, train=kept["train"], val=kept["val"], test=kept["test"])
    _check_left(splits, left)
    return Checked(left, tuple(broken), _digest(lines))


def _inspect_all(
    samples: Sequence[Sample], threads: int | None, on_progress: Progress | None
) -> list[bytes | str]:
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    findings: list[bytes | str] = []
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for chunk in pool.map(_inspect, chunks):
            findings.extend(chunk)
            if on_progress:
                on_progress(len(findings), len(samples))
    return findings


def _inspect(samples: Sequence[Sample]) -> list[bytes | str]:
    return [_inspect_one(sample) for sample in samples]


def _inspect_one(sample: Sample) -> bytes | str:
    """The sha256 of a sound image's bytes, or what is wrong with it."""
    try:
        data = sample.read()
        decode(data, LIMITS)
    except ImageError as error:
        return str(error)
    return hashlib.sha256(data).digest()


def _check_left(before: DataSplits, left: DataSplits) -> None:
    for split, samples in left.by_name().items():
        if before.by_name()[split] and not samples:
            raise EmptyDataset(f"Every image of the {split} split is broken. Replace them.")
    check_no_empty_class(left.train, left.class_names)


def _report(broken: Sequence[Broken], checked: int) -> str:
    named = "".join(f"\n  {item.name}: {item.reason}" for item in broken[:_NAMED])
    more = f"\n  and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    return (
        f"{len(broken):,} of {checked:,} images cannot be read:{named}{more}\n"
        "Replace or remove them, or go on without them with --skip-broken."
    )


def _digest(lines: Sequence[str]) -> str:
    # A file name need not be valid Unicode.
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()

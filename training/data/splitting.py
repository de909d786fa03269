"""Stratified sampling of indices by label and seed. Pure."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Indices = list[int]


def hold_out(labels: Sequence[int], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Indices kept and indices held out: `fraction` of each class, both in the order of `labels`.

    A class with two images or more gives at least one and keeps at least one.

    Raises:
        ValueError: `fraction` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"The fraction held out is {fraction}; it must be in [0, 1).")

    def held_of(_label: int, available: int) -> int:
        share = math.floor(fraction * available + 0.5)
        return min(available - 1, max(1, share)) if fraction else 0

    held = draw(labels, held_of, seed)
    return sorted(set(range(len(labels))) - set(held)), held


def draw(labels: Sequence[int], count_of: Callable[[int, int], int], seed: int) -> Indices:
    """For each class, `count_of(label, available)` of its indices at random; sorted.

    A class's draw depends on the seed, its label and its number of images alone.
    """
    drawn: Indices = []
    for label, members in enumerate_classes(labels):
        rng = np.random.default_rng((seed, label))
        count = count_of(label, len(members))
        drawn.extend(int(index) for index in rng.permutation(members)[:count])
    return sorted(drawn)


def enumerate_classes(labels: Sequence[int]) -> list[tuple[int, NDArray[np.intp]]]:
    """Each label that occurs, ascending, with the indices where it does."""
    array = np.asarray(labels, dtype=np.int64)
    return [(int(label), np.flatnonzero(array == label)) for label in np.unique(array)]

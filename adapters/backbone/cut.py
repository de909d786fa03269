"""The cut of a timm model: its stages, the sites between them, and what follows the last one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from adapters.backbone.layout import MapLayout

Stage = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cut:
    """A model as a chain: stage 0, site 0, stage 1, site 1, ..., tail.

    `stages[i]` ends at the site `sites[i]`; `tail` goes from the last site to the output of
    timm's `forward_features`. `stage_sites` are those sites that the paper's default uses.
    """

    stages: tuple[Stage, ...]
    sites: tuple[str, ...]
    stage_sites: tuple[str, ...]
    layout: MapLayout
    tail: Stage


def cut_by_stages(stages: Sequence[nn.Module], tail: nn.Module, layout: MapLayout) -> Cut:
    """The usual cut of a pyramid: one site `stage1`, `stage2`, ... after every stage."""
    sites = tuple(f"stage{number}" for number in range(1, len(stages) + 1))
    return Cut(tuple(stages), sites, sites, layout, tail)

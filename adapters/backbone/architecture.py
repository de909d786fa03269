"""The architecture of a backbone as data, read off timm's own model without any weights."""

import difflib
from functools import cache

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from adapters.backbone.cut import Cut
from adapters.backbone.families import family_of
from adapters.errors import UnknownBackbone
from adapters.manifest import Architecture, Preprocessing, Site


@cache
def describe(name: str) -> Architecture:
    """Sites, feature width and preprocessing of the timm model `name`; takes no weight memory.

    Raises:
        UnknownBackbone: timm does not know the name, or its family has no known cut.
    """
    with torch.device("meta"):
        model = create(name)
    family = family_of(model)
    cut = family.cut(model)
    preprocessing = _preprocessing(model)
    try:
        sites, feature_dim = _measure(model, cut, preprocessing)
    except RuntimeError as error:
        raise UnknownBackbone(
            f"{name} cannot run on images of {preprocessing.height} x {preprocessing.width}, the "
            f"size in timm's own data config ({error}). Take another model."
        ) from error
    return Architecture(
        name=name,
        family=family.name,
        sites=sites,
        stage_sites=cut.stage_sites,
        feature_dim=feature_dim,
        preprocessing=preprocessing,
    )


def _measure(
    model: nn.Module, cut: Cut, preprocessing: Preprocessing
) -> tuple[tuple[Site, ...], int]:
    """The maps at the sites and the width of the pooled features, by a run without data."""
    features = torch.empty(1, 3, preprocessing.height, preprocessing.width, device="meta")
    sites = []
    for stage, site in zip(cut.stages, cut.sites, strict=True):
        features = stage(features)
        _, channels, height, width = cut.layout.read(features).shape
        sites.append(Site(name=site, channels=channels, height=height, width=width))
    pooled: Tensor = model.forward_head(cut.tail(features), pre_logits=True)  # type: ignore[operator]
    return tuple(sites), pooled.shape[1]


def create(name: str, **options: bool | int) -> nn.Module:
    """Timm's model `name` in eval mode, with `options` passed on to timm.

    Raises:
        UnknownBackbone: timm does not know the name.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else " See timm.list_models()."
        raise UnknownBackbone(f"timm has no model called {name!r}.{hint}")
    try:
        model: nn.Module = timm.create_model(name, **options)
    except RuntimeError as error:
        if "Invalid pretrained tag" not in str(error):
            raise
        raise UnknownBackbone(f"{error} Leave the tag out, or take another one.") from error
    return model.eval()


def _preprocessing(model: nn.Module) -> Preprocessing:
    config = resolve_data_config(model=model, use_test_size=False)
    _, height, width = config["input_size"]
    return Preprocessing(
        height=height,
        width=width,
        crop_pct=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )

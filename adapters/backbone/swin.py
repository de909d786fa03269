"""Swin: sites after the embedding and after each stage with its patch merging.

The paper counts the patch merging to the stage before it, timm to the stage after it; the cut
follows the paper: 96, 192, 384, 768, 768 channels in Swin-S.
"""

from timm.models.swin_transformer import SwinTransformer
from torch import nn

from adapters.backbone.cut import Cut
from adapters.backbone.layout import ChannelsLast


def cut(model: SwinTransformer) -> Cut:
    """The last site lies before the final norm."""
    stages = [nn.Sequential(model.patch_embed, model.layers[0].downsample)]
    for layer, following in zip(model.layers, model.layers[1:], strict=False):
        stages.append(nn.Sequential(layer.blocks, following.downsample))
    stages.append(model.layers[-1].blocks)
    sites = ("embed", *(f"stage{number}" for number in range(1, len(stages))))
    return Cut(tuple(stages), sites, sites, ChannelsLast(), model.norm)

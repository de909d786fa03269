"""ConvNeXt: sites after each of the four stages, where timm's feature_info cuts it."""

from timm.models.convnext import ConvNeXt
from torch import nn

from adapters.backbone.cut import Cut, cut_by_stages
from adapters.backbone.layout import ChannelsFirst


def cut(model: ConvNeXt) -> Cut:
    """The stem belongs to the first stage, the norm before the pool to the tail."""
    first, *others = model.stages
    stages = [nn.Sequential(model.stem, first), *others]
    return cut_by_stages(stages, model.norm_pre, ChannelsFirst())

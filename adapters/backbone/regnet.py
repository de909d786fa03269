"""RegNet (X, Y, Z): sites after each of the four stages."""

from timm.models.regnet import RegNet
from torch import nn

from adapters.backbone.cut import Cut, cut_by_stages
from adapters.backbone.layout import ChannelsFirst


def cut(model: RegNet) -> Cut:
    """The stem belongs to the first stage; a final convolution, where there is one, to the tail."""
    stages = [nn.Sequential(model.stem, model.s1), model.s2, model.s3, model.s4]
    return cut_by_stages(stages, model.final_conv, ChannelsFirst())

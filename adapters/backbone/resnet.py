"""ResNet and its relatives (ResNeXt, Wide, SE-ResNet): sites after each of the four stages."""

from timm.models.resnet import ResNet
from torch import nn

from adapters.backbone.cut import Cut, cut_by_stages
from adapters.backbone.layout import ChannelsFirst


def cut(model: ResNet) -> Cut:
    """The stem belongs to the first stage."""
    first = nn.Sequential(model.conv1, model.bn1, model.act1, model.maxpool, model.layer1)
    stages = [first, model.layer2, model.layer3, model.layer4]
    return cut_by_stages(stages, nn.Identity(), ChannelsFirst())

"""EfficientNet, MobileNetV2 and MobileNetV3: sites where timm's feature_info cuts the blocks."""

from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from adapters.backbone.cut import Cut, cut_by_stages
from adapters.backbone.layout import ChannelsFirst

_PREFIX = "blocks."


def cut(model: EfficientNet | MobileNetV3) -> Cut:
    """Stages end after the blocks that feature_info names; the last convolution is the tail."""
    modules = [feature["module"] for feature in model.feature_info]
    ends = [int(name.removeprefix(_PREFIX)) + 1 for name in modules if name.startswith(_PREFIX)]
    starts = [0, *ends[:-1]]
    stages = [
        nn.Sequential(*model.blocks[start:end]) for start, end in zip(starts, ends, strict=True)
    ]
    stages[0] = nn.Sequential(model.conv_stem, model.bn1, *stages[0])
    after = [*model.blocks[ends[-1] :]]
    if isinstance(model, EfficientNet):  # MobileNetV3 has its last convolution after the pool
        after += [model.conv_head, model.bn2]
    return cut_by_stages(stages, nn.Sequential(*after), ChannelsFirst())

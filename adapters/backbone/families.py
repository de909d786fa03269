"""Which timm model class belongs to which family, and how each family is cut."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from adapters.backbone import convnext, efficientnet, regnet, resnet, swin, vit
from adapters.backbone.cut import Cut
from adapters.errors import UnknownBackbone

FamilyName = Literal["resnet", "regnet", "vit", "swin", "convnext", "efficientnet"]


class Family(NamedTuple):
    """A family's name and its way of cutting a model."""

    name: FamilyName
    cut: Callable[[Any], Cut]


# Exact classes: a subclass may run its parts in another order.
FAMILIES: dict[type[nn.Module], Family] = {
    ResNet: Family("resnet", resnet.cut),
    RegNet: Family("regnet", regnet.cut),
    VisionTransformer: Family("vit", vit.cut),
    VisionTransformerDistilled: Family("vit", vit.cut),
    SwinTransformer: Family("swin", swin.cut),
    ConvNeXt: Family("convnext", convnext.cut),
    EfficientNet: Family("efficientnet", efficientnet.cut),
    MobileNetV3: Family("efficientnet", efficientnet.cut),
}


def family_of(model: nn.Module) -> Family:
    """The family of a timm model.

    Raises:
        UnknownBackbone: the model's class belongs to none.
    """
    if type(model) not in FAMILIES:
        raise UnknownBackbone(
            f"timm's {type(model).__name__} has no known cut into stages. Take a ResNet, RegNet, "
            "ViT/DeiT, Swin, ConvNeXt, EfficientNet or MobileNet."
        )
    return FAMILIES[type(model)]

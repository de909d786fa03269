"""ViT and DeiT: sites after the embedding and after layers ceil(i * depth / 4).

The site after the first layer is there for the ablations F1 and F5 of Table 10.
"""

from functools import partial
from itertools import pairwise
from math import ceil

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from adapters.backbone.cut import Cut
from adapters.backbone.layout import Tokens

QUARTERS = 4


def cut(model: VisionTransformer) -> Cut:
    """The last site lies before the final norm."""
    depth = len(model.blocks)
    quarters = sorted({ceil(i * depth / QUARTERS) for i in range(1, QUARTERS + 1)})
    ends = sorted({1, *quarters})
    layers = [nn.Sequential(*model.blocks[start:end]) for start, end in pairwise([0, *ends])]
    height, width = model.patch_embed.grid_size
    prefix = model.num_prefix_tokens
    return Cut(
        stages=(partial(_embed, model), *layers),
        sites=("embed", *(f"layer{end}" for end in ends)),
        stage_sites=("embed", *(f"layer{end}" for end in quarters)),
        layout=Tokens(height, width, prefix, class_tokens=prefix - model.num_reg_tokens),
        tail=model.norm,
    )


def _embed(model: VisionTransformer, images_BCHW: Tensor) -> Tensor:
    tokens_BNC = model._pos_embed(model.patch_embed(images_BCHW))  # noqa: SLF001  timm's only way
    return model.norm_pre(model.patch_drop(tokens_BNC))

"""How a backbone's features lie in memory: reading them as a map, and adding a prompt to them.

The ways of the families are ChannelsFirst [B, C, H, W], ChannelsLast [B, H, W, C] and
Tokens [B, prefix + H * W, C].
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adapters.manifest import ClassToken


class MapLayout(Protocol):
    """Turns features into a map that a prompt block reads, and blends the prompt back."""

    def read(self, features: Tensor) -> Tensor:
        """The features as a map [B, C, H, W]."""
        ...

    def blend(self, features: Tensor, prompt_BCHW: Tensor, class_token: ClassToken) -> Tensor:
        """Eq. (1): the features plus the prompt, in the layout of the features."""
        ...


class ChannelsFirst:
    """Features [B, C, H, W], as in convolutional networks."""

    def read(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features

    def blend(self, features: Tensor, prompt_BCHW: Tensor, class_token: ClassToken) -> Tensor:  # noqa: ARG002
        """Add the prompt; there is no class token."""
        return features + prompt_BCHW


class ChannelsLast:
    """Features [B, H, W, C], as in Swin."""

    def read(self, features: Tensor) -> Tensor:
        """The features with the channels moved to the front."""
        return features.permute(0, 3, 1, 2)

    def blend(self, features: Tensor, prompt_BCHW: Tensor, class_token: ClassToken) -> Tensor:  # noqa: ARG002
        """Add the prompt; there is no class token."""
        return features + prompt_BCHW.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Tokens:
    """Features [B, prefix + H * W, C], as in a ViT.

    The first `class_tokens` of the `prefix` tokens feed the head; the others are registers,
    which receive nothing.
    """

    height: int
    width: int
    prefix: int
    class_tokens: int

    def read(self, features: Tensor) -> Tensor:
        """The patch tokens as a map."""
        patches_BNC = features[:, self.prefix :]
        batch, _, channels = patches_BNC.shape
        return patches_BNC.transpose(1, 2).reshape(batch, channels, self.height, self.width)

    def blend(self, features: Tensor, prompt_BCHW: Tensor, class_token: ClassToken) -> Tensor:
        """Add the prompt to the patch tokens and, for "mean", its spatial mean to class tokens."""
        prompt_BNC = prompt_BCHW.flatten(2).transpose(1, 2)
        head_BNC = prompt_BNC.new_zeros(len(prompt_BNC), self.prefix, prompt_BNC.shape[2])
        if class_token == "mean":
            head_BNC[:, : self.class_tokens] = prompt_BNC.mean(dim=1, keepdim=True)
        return features + torch.cat((head_BNC, prompt_BNC), dim=1)

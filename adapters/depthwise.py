"""Depthwise convolution whose weight gradient is fast on a CPU.

oneDNN takes 3 to 10 times as long for the weight gradient as for the other two passes, which was
most of a prompt block's time. The gradient is a depthwise convolution itself: every channel of
every image is a channel, and the gradient of the output is its kernel, as large as the image.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def depthwise_conv2d(map_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`weight` [C, 1, k, k], k odd, over a map [B, C, H, W]: [B, C, H, W] of the map's dtype.

    The weight's gradient is computed in the weight's own dtype, all else in the map's.
    """
    output: Tensor = _Depthwise.apply(map_BCHW, weight, bias)
    return output


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, map_BCHW: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(map_BCHW, weight)
        return _convolve(map_BCHW, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        map_BCHW, weight = ctx.saved_tensors
        inputs, weights, biases = ctx.needs_input_grad
        return (
            _convolve(grad_BCHW, weight.flip(2, 3)) if inputs else None,
            _weight_gradient(map_BCHW, grad_BCHW, weight) if weights else None,
            grad_BCHW.sum(dim=(0, 2, 3), dtype=weight.dtype) if biases else None,
        )


def _convolve(map_BCHW: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    channels, _, _, k = weight.shape
    weight = weight.to(map_BCHW.dtype)
    bias = None if bias is None else bias.to(map_BCHW.dtype)
    return F.conv2d(map_BCHW, weight, bias, padding=k // 2, groups=channels)


def _weight_gradient(map_BCHW: Tensor, grad_BCHW: Tensor, weight: Tensor) -> Tensor:
    batch, channels, height, width = map_BCHW.shape
    # Channels first, and in this order: the narrower type is the faster one to move.
    map_BCHW, grad_BCHW = (x.contiguous().to(weight.dtype) for x in (map_BCHW, grad_BCHW))
    by_image = F.conv2d(
        map_BCHW.reshape(1, batch * channels, height, width),
        grad_BCHW.reshape(batch * channels, 1, height, width),
        padding=weight.shape[-1] // 2,
        groups=batch * channels,
    )
    return by_image.view(batch, *weight.shape).sum(0)

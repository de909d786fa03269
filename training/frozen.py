"""Frozen layers keep nothing for the backward pass that only a weight's gradient would need.

Autograd keeps the input of every convolution and of every BatchNorm in eval mode, although the
gradient of that input depends on the layer's weights alone. Under a CNN that is half of what a
training step of Pro-tuning takes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Size = int | tuple[int, ...]


class SparingFrozen(TorchFunctionMode):
    """Inside, `F.conv2d` and `F.batch_norm` with frozen weights spare memory.

    Outputs are the same to the bit, and gradients up to rounding.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call `func`, or what stands in for it."""
        return _STAND_INS.get(func, func)(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,  # noqa: A002  torch's signature
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or not _is_passage(input, weight, bias):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    output: Tensor = _FrozenConv.apply(input, weight, bias, stride, padding, dilation, groups)
    return output


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_var is None or not _is_passage(input, weight, bias):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output: Tensor = _FrozenNorm.apply(input, running_mean, running_var, weight, bias, eps)
    return output


_STAND_INS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
}


def _is_passage(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether gradients go through a layer, and none into it."""
    trained = any(parameter is not None and parameter.requires_grad for parameter in parameters)
    return x.requires_grad and torch.is_grad_enabled() and not trained


class _FrozenConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
    ) -> Tensor:
        output = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        ctx.save_for_backward(weight)
        ctx.geometry = _pair(stride), _pair(padding), _pair(dilation), groups
        # Its shape and memory order are all that the gradient needs of the input.
        ctx.like = torch.empty_like(x, device="meta")
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        unread = torch.empty_like(ctx.like, dtype=grad.dtype, device=grad.device)
        grad_x, _, _ = torch.ops.aten.convolution_backward(
            grad,
            unread,
            weight.to(grad.dtype),
            None,
            stride,
            padding,
            dilation,
            False,  # noqa: FBT003  not transposed
            [0, 0],
            groups,
            [True, False, False],
        )
        return grad_x, *[None] * 6


class _FrozenNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(mean, variance, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        mean, variance, weight = ctx.saved_tensors
        # The gradient is scaled as the input was, and shifted by nothing.
        grad_x = F.batch_norm(grad, torch.zeros_like(mean), variance, weight, eps=ctx.eps)
        return grad_x, *[None] * 5


def _pair(size: Size) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)

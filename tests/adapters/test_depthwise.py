"""The depthwise convolution's own backward pass, against torch's."""

import pytest
import torch
from torch.nn import functional as F

from adapters.depthwise import depthwise_conv2d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 7)])
def test_output_and_gradients_are_those_of_torch(size, kernel, memory_format):
    """On maps smaller than the kernel, oblong ones, and in either order of memory."""
    map_BCHW = torch.randn(3, 4, *size, dtype=torch.float64)
    map_BCHW = map_BCHW.to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    inputs = (map_BCHW, weight, bias)
    expected = F.conv2d(*inputs, padding=kernel // 2, groups=4)
    output = depthwise_conv2d(*inputs)
    torch.testing.assert_close(output, expected)
    seen = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(output, inputs, seen),
        torch.autograd.grad(expected, inputs, seen),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_what_needs_no_gradient_gets_none():
    """A frozen weight stays without one, and a map without one costs nothing."""
    weight = torch.randn(4, 1, 3, 3)
    bias = torch.randn(4, requires_grad=True)
    depthwise_conv2d(torch.randn(2, 4, 5, 5), weight, bias).sum().backward()
    assert weight.grad is None
    assert bias.grad.equal(torch.full((4,), 50.0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_bfloat16_map_stays_one_and_the_weight_gradient_is_exact(memory_format):
    """The map itself is all that is kept of it, and the weight gets its gradient in float32."""
    map_BCHW = torch.randn(2, 4, 9, 7).bfloat16().to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(4, 1, 5, 5, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    inputs = (map_BCHW, weight, bias)
    exact = F.conv2d(map_BCHW.float(), weight, bias, padding=2, groups=4)
    kept = []

    def keep(tensor):
        kept.append(tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = depthwise_conv2d(*inputs)
    assert kept == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(output, exact.bfloat16(), rtol=2e-2, atol=5e-2)
    seen = torch.randn_like(output)
    of_map, of_weight, of_bias = torch.autograd.grad(output, inputs, seen)
    exact_of_map, exact_of_weight, exact_of_bias = torch.autograd.grad(exact, inputs, seen.float())
    torch.testing.assert_close(of_map, exact_of_map, rtol=2e-2, atol=5e-2)
    torch.testing.assert_close(of_weight, exact_of_weight)
    torch.testing.assert_close(of_bias, exact_of_bias)

"""The CPU kernels against plain convolutions, for groups, maps and kernels of every kind."""

from dataclasses import replace

import pytest
import torch

from adapters.manifest import Placement, PromptSpec, Site
from service.engines.bank import AdapterBank
from service.engines.folded import TORCH_DTYPES, FoldedAdapter, PromptLayout
from service.engines.kernels.build import load_kernels
from service.engines.packed import pack_prompts, plan_of
from tests import makers

ERRORS = {"float32": 1e-5, "bfloat16": 1e-2}  # of the largest value
ROWS = 3


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "height", "width", "class_tokens", "activation"),
    [
        (128, 2, 5, 7, 9, 0, "relu"),  # two vectors together
        (64, 2, 3, 1, 1, 1, "gelu"),  # one pixel
        (64, 1, 5, 2, 1, 0, "relu"),
        (32, 2, 5, 11, 3, 2, "silu"),  # vectors alone, and a pixel more than a product has
        (96, 2, 5, 14, 14, 1, "relu"),
        (256, 2, 7, 8, 8, 0, "hardswish"),  # the map is smaller than the weights
        (48, 2, 9, 5, 2, 1, "relu"),  # no whole vectors
        (40, 1, 3, 6, 6, 0, "relu"),
        (10, 2, 1, 2, 1, 0, "relu"),  # an odd number
        (64, 4, 15, 3, 20, 1, "relu"),  # a kernel larger than the map
    ],
)
def test_rows_get_the_prompts_of_their_own_plan(
    dtype, channels, groups, kernel, height, width, class_tokens, activation
):
    """Each of three rows has another adapter, the second one none; all are blended in place."""
    load_kernels(makers.KERNELS)
    site = Site(name="stage1", channels=channels, height=height, width=width)
    architecture = makers.backbone("test_vit").spec.model_copy(
        update={"sites": (site,), "stage_sites": ("stage1",)}
    )
    spec = PromptSpec(
        placements=(Placement(site="stage1", blocks=1),),
        kernel_size=kernel,
        groups=groups,
        se_reduction=2,
        activation=activation,
    )
    layout = PromptLayout(spec, architecture)
    (place,) = layout.blocks["stage1"]
    bank = AdapterBank(architecture, 2**24, TORCH_DTYPES[dtype], "cpu")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, class_tokens + height * width, channels, generator=generator)
    features = features.to(TORCH_DTYPES[dtype])
    wanted, plans = features.float(), []
    for row in range(ROWS):
        values = 0.3 * torch.randn(layout.size, generator=generator)
        prompts = values.to(TORCH_DTYPES[dtype]).float()
        head = torch.zeros(1, architecture.feature_dim), torch.zeros(1)
        adapter = FoldedAdapter(str(row), spec, prompts, *head)
        packed = replace(adapter, prompts=pack_prompts(adapter, layout, dtype))
        plan = plan_of(bank.layout_of(adapter), bank.add(packed).slot, architecture)
        if row == 1:
            plans.append(torch.full_like(plan, -1))
            continue
        plans.append(plan)
        map_1CHW = wanted[row : row + 1, class_tokens:].mT.reshape(1, channels, height, width)
        prompt_1CHW = place.views(prompts[place.start : place.stop]).prompt(map_1CHW, activation)
        wanted[row, class_tokens:] += prompt_1CHW[0].flatten(1).T
        wanted[row, :class_tokens] += prompt_1CHW.mean(dim=(2, 3))
    torch.ops.protuning.prompt_rows_(
        features, class_tokens, height, width, bank.buffer, torch.stack(plans), 0
    )
    assert torch.equal(features[1].float(), wanted[1])
    error = (features.float() - wanted).abs().max() / wanted.abs().max()
    assert error <= ERRORS[dtype]

"""Folded adapters: one buffer that holds every tensor, and what it takes of the memory."""

import pytest
import torch

from adapters.backbone import describe
from adapters.manifest import squeeze_channels
from adapters.prompt import prompt_spec
from service.engines.bank import AdapterBank
from service.engines.folded import FoldedAdapter, PromptLayout, fold, fold_adapter
from service.errors import EngineFull
from tests import makers

NAMES = ("resnet50", "deit_small_patch16_224", "vit_tiny_patch16_224")


def folded_parameters(architecture, spec):
    """The values of the default prompts in their inference form, counted by hand."""
    total = 0
    channels_of = {site.name: site.channels for site in architecture.sites}
    for placement in spec.placements:
        c = channels_of[placement.site]
        r = squeeze_channels(c, spec.se_reduction)
        pointwise, depthwise = c * c // spec.groups + c, c * spec.kernel_size**2 + c
        total += placement.blocks * (2 * pointwise + depthwise + 2 * c * r + r + c)
    return total


def zeros(name, classes=100):
    """A folded adapter of a backbone without weights."""
    architecture = describe(name)
    spec = prompt_spec(architecture)
    size, features = PromptLayout(spec, architecture).size, architecture.feature_dim
    return FoldedAdapter(
        "0" * 64, spec, torch.zeros(size), torch.zeros(classes, features), torch.zeros(classes)
    )


@pytest.mark.parametrize("config", [{}, {"blocks": 2}, {"kernel_size": 3, "groups": 2}])
def test_the_buffer_holds_every_tensor(config):
    """The views of the layout are the block's own folded tensors, and share the buffer."""
    adapter = makers.model("test_vit", **config).adapter
    architecture = makers.backbone("test_vit").spec
    folded = fold(adapter, architecture, key="k")
    layout = PromptLayout(folded.spec, architecture)
    for site, blocks in adapter.fold().items():
        for place, block in zip(layout.blocks[site], blocks, strict=True):
            views = place.views(folded.prompts[place.start : place.stop])
            assert all(torch.equal(*pair) for pair in zip(views, block, strict=True))
            assert views.conv1_weight.untyped_storage().data_ptr() == folded.prompts.data_ptr()


def test_places_do_not_overlap_and_are_aligned():
    """Blocks follow each other, and each tensor starts at 16 bytes in either dtype."""
    architecture = describe("resnet50")
    layout = PromptLayout(prompt_spec(architecture, blocks=2), architecture)
    stop = 0
    for blocks in layout.blocks.values():
        for block in blocks:
            for place in block.tensors:
                assert stop <= block.start + place.offset
                assert (block.start + place.offset) % 8 == 0
                stop = block.start + place.stop
    assert stop <= layout.size


def test_a_checkpoint_keeps_its_digest_and_its_head():
    """What an engine loads is the checkpoint's."""
    checkpoint = makers.checkpoint("test_resnet")
    folded = fold_adapter(checkpoint)
    assert folded.key == checkpoint.digest
    assert torch.equal(folded.head_weight, checkpoint.state["head.weight"])
    assert torch.equal(folded.head_bias, checkpoint.state["head.bias"])


def test_beta_is_in_the_weights():
    """Adapters that differ in beta alone have equal specs, and can run together."""
    architecture = makers.backbone("test_resnet").spec
    specs = {
        fold(makers.model("test_resnet", beta=beta).adapter, architecture, key="k").spec
        for beta in (None, 0.25, 2.0)
    }
    assert len(specs) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_resident_task_takes_hardly_more_than_its_parameters(name, dtype):
    """At most 1.05 of the folded parameters, all that the device holds of it counted."""
    adapter, architecture = zeros(name), describe(name)
    itemsize = getattr(torch, dtype).itemsize
    tasks = 3
    bank = AdapterBank(
        architecture, tasks * adapter.nbytes(dtype), dtype=getattr(torch, dtype), device="cpu"
    )
    residents = [bank.add(adapter) for _ in range(tasks)]
    taken = bank.used_bytes + sum(resident.head_rows.nbytes for resident in residents)
    head = adapter.head_weight.numel() + adapter.head_bias.numel()
    needed = itemsize * (folded_parameters(architecture, adapter.spec) + head)
    assert needed <= bank.adapter_bytes(adapter) == bank.used_bytes / tasks
    assert taken / tasks <= 1.05 * needed
    with pytest.raises(EngineFull):
        bank.add(adapter)

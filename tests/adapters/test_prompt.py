"""Prompt blocks: start as the identity, fold exactly, blend as Eq. (1) says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.backbone.layout import ChannelsFirst, ChannelsLast, Tokens
from adapters.head import head_spec
from adapters.manifest import PromptSpec
from adapters.model import Adapter
from adapters.prompt import ACTIVATIONS, PromptBlock, prompt_spec
from tests import makers


def _random_block(channels: int, spec: PromptSpec, seed: int) -> PromptBlock:
    block = PromptBlock(channels, spec)
    generator = torch.Generator().manual_seed(seed)
    for name, values in block.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        values.uniform_(-2, 2, generator=generator)
        if name.endswith("running_var"):
            values.abs_().add_(1e-3)
    return block.eval()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    channels=st.sampled_from([4, 8, 24, 64]),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    groups=st.sampled_from([1, 2, 4]),
    se_reduction=st.sampled_from([1, 4, 16]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    beta=st.sampled_from([None, 0.0, 0.1, -3.0]),
    size=st.integers(1, 9),
    seed=st.integers(0, 1_000),
)
def test_folded_block_equals_the_block(
    channels, kernel_size, groups, se_reduction, activation, beta, size, seed
):
    """BN and beta folded in: equal within 1e-5 * max(1, max|y|) for every configuration."""
    spec = PromptSpec(
        kernel_size=kernel_size,
        groups=groups,
        se_reduction=se_reduction,
        activation=activation,
        beta=beta,
    )
    block = _random_block(channels, spec, seed)
    map_BCHW = torch.randn(
        3, channels, size, size + 1, generator=torch.Generator().manual_seed(seed)
    )
    with torch.inference_mode():
        expected = block(map_BCHW)
        folded = block.fold().prompt(map_BCHW, activation)
    tolerance = 1e-5 * max(1.0, expected.abs().max().item())
    assert (expected - folded).abs().max().item() <= tolerance


@pytest.mark.parametrize(
    "name", ["resnet50", "deit_small_patch16_224", "swin_small_patch4_window7_224"]
)
def test_folding_holds_at_the_papers_widths(name):
    """The same at the real channel counts and map sizes of the paper's backbones."""
    from adapters.backbone import describe

    architecture = describe(name)
    spec = prompt_spec(architecture)
    for site in architecture.sites:
        # Weights of a plain size: at these widths others drive SE's gates where rounding decides.
        block = makers.randomise(PromptBlock(site.channels, spec), seed=site.channels).eval()
        map_BCHW = torch.randn(
            1, site.channels, site.height, site.width, generator=torch.Generator().manual_seed(0)
        )
        with torch.inference_mode():
            expected = block(map_BCHW)
            folded = block.fold().prompt(map_BCHW, spec.activation)
        tolerance = 1e-5 * max(1.0, expected.abs().max().item())
        assert (expected - folded).abs().max().item() <= tolerance


def test_fold_leaves_the_block_alone():
    """A folded block keeps nothing of the block's memory, and changes none of it."""
    block = _random_block(8, PromptSpec(), seed=0)
    before = {name: values.clone() for name, values in block.state_dict().items()}
    for values in block.fold():
        values.zero_()
    assert all(torch.equal(before[name], values) for name, values in block.state_dict().items())


@pytest.mark.parametrize("name", makers.SMALL_BACKBONES.values())
def test_a_new_adapter_is_the_identity(name):
    """Before training the prompts change nothing: features equal the bare backbone's."""
    from adapters.model import AdapterModel

    backbone = makers.backbone(name)
    adapter = Adapter(prompt_spec(backbone.spec), head_spec(backbone.spec, 2), backbone.spec)
    model = AdapterModel(backbone, adapter).eval()
    size = backbone.spec.preprocessing
    images_BCHW = torch.randn(2, 3, size.height, size.width)
    with torch.inference_mode():
        bare = backbone.features(images_BCHW, lambda _, features: features)
        assert torch.equal(model.features(images_BCHW), bare)


def test_blocks_at_one_site_run_one_after_the_other():
    """Two blocks: the second sees what the first has blended, each with its own beta."""
    model = makers.model("test_resnet", sites="stage2", blocks=2)
    first, second = model.adapter.blocks("stage2")
    channels = model.backbone.spec.sites[1].channels
    x = torch.randn(2, channels, 5, 5)
    with torch.inference_mode():
        after_first = x + first(x)
        expected = after_first + second(after_first)
        assert torch.equal(model._blend("stage2", x), expected)
        assert torch.equal(model._blend("stage1", x), x)


@pytest.mark.parametrize("beta", [0.1, 10.0])
def test_a_fixed_beta_is_not_trained(beta):
    """Table 11: a constant beta scales the prompt and is no parameter."""
    block = _random_block(8, PromptSpec(beta=beta), seed=1)
    learned = PromptBlock(8, PromptSpec())
    learned.load_state_dict({**block.state_dict(), "beta": torch.tensor(1.0)})
    x = torch.randn(1, 8, 4, 4)
    assert "beta" not in dict(block.named_parameters())
    assert torch.allclose(block(x), beta * learned.eval()(x))


def test_the_layouts_read_and_blend_the_same_map():
    """Whatever the layout of the features, the map and the sum are the same."""
    map_BCHW, prompt_BCHW = torch.randn(2, 2, 6, 3, 4).unbind()
    expected = map_BCHW + prompt_BCHW
    last = map_BCHW.permute(0, 2, 3, 1)
    assert torch.equal(ChannelsFirst().blend(map_BCHW, prompt_BCHW, "mean"), expected)
    assert torch.equal(ChannelsLast().read(last), map_BCHW)
    assert torch.equal(
        ChannelsLast().blend(last, prompt_BCHW, "mean"), expected.permute(0, 2, 3, 1)
    )


@pytest.mark.parametrize("class_token", ["mean", "none"])
def test_tokens_blend_patches_and_class_tokens(class_token):
    """Patch tokens get the prompt, class tokens its mean or nothing, registers nothing."""
    layout = Tokens(height=3, width=4, prefix=3, class_tokens=1)
    tokens_BNC = torch.randn(2, 3 + 12, 6)
    prompt_BCHW = torch.randn(2, 6, 3, 4)
    assert torch.equal(
        layout.read(tokens_BNC), tokens_BNC[:, 3:].transpose(1, 2).reshape(2, 6, 3, 4)
    )
    blended = layout.blend(tokens_BNC, prompt_BCHW, class_token)
    received = blended - tokens_BNC
    mean = prompt_BCHW.mean(dim=(2, 3)) if class_token == "mean" else torch.zeros(2, 6)
    assert torch.allclose(received[:, 0], mean, atol=1e-6)
    assert torch.equal(blended[:, 1:3], tokens_BNC[:, 1:3])
    assert torch.allclose(received[:, 3:], prompt_BCHW.flatten(2).transpose(1, 2), atol=1e-6)

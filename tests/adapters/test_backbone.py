"""Staged backbones: equal to timm's own forward, frozen, and open to gradients."""

import pytest
import torch

from adapters.backbone import describe, load_backbone
from adapters.errors import InvalidSpec, UnknownBackbone
from adapters.head import head_spec
from adapters.model import Adapter, AdapterModel
from adapters.prompt import prompt_spec
from tests import makers

PAPER = [
    "resnet50",
    "resnet101",
    "regnetx_320",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
]
OTHERS = [
    "seresnet50",
    "regnetz_005",
    "vit_wee_patch16_reg1_gap_256",
    "vit_tiny_r_s16_p8_224",
    "convnext_atto",
    "convnext_atto_ols",
    "efficientnet_b0",
    "mobilenetv2_100",
    "mobilenetv3_small_050",
]


@pytest.mark.parametrize("name", [*PAPER, *OTHERS, *makers.SMALL_BACKBONES.values()])
def test_staged_forward_equals_timms(name):
    """Without prompts the chain of stages gives timm's logits, bit for bit."""
    backbone = load_backbone(name, "random")
    size = backbone.spec.preprocessing
    images_BCHW = torch.randn(5, 3, size.height, size.width)
    with torch.inference_mode():
        for batch in (images_BCHW, images_BCHW[:1]):
            assert torch.equal(backbone(batch), backbone.model(batch))


@pytest.mark.parametrize("name", makers.SMALL_BACKBONES.values())
def test_sites_are_what_the_forward_pass_meets(name):
    """Channels and map sizes in the spec are those of the features at every site."""
    backbone = makers.backbone(name)
    size = backbone.spec.preprocessing
    met = []

    def at_site(site, features):
        met.append((site, *backbone.layout.read(features).shape[1:]))
        return features

    pooled = backbone.features(torch.randn(2, 3, size.height, size.width), at_site)
    assert met == [(s.name, s.channels, s.height, s.width) for s in backbone.spec.sites]
    assert pooled.shape == (2, backbone.spec.feature_dim)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet50", [256, 512, 1024, 2048]),
        ("regnetx_320", [336, 672, 1344, 2520]),
        ("deit_small_patch16_224", [384] * 5),
        ("swin_small_patch4_window7_224", [96, 192, 384, 768, 768]),
        ("swin_base_patch4_window7_224", [128, 256, 512, 1024, 1024]),
        ("mobilenetv2_100", [16, 24, 32, 96, 320]),
    ],
)
def test_default_sites_are_the_papers(name, channels):
    """The paper's stage partitioning, by channels."""
    architecture = describe(name)
    by_name = {site.name: site.channels for site in architecture.sites}
    assert [by_name[site] for site in architecture.stage_sites] == channels


def test_quarters_of_a_vit_round_up():
    """A ViT of depth 6 has its sites after layers 2, 3, 5 and 6."""
    architecture = describe("test_vit4")
    depth = len(makers.backbone("test_vit4").model.blocks)
    expected = [f"layer{-(-i * depth // 4)}" for i in range(1, 5)]
    assert list(architecture.stage_sites) == ["embed", *expected]


@pytest.mark.parametrize("name", makers.SMALL_BACKBONES.values())
def test_training_reaches_every_prompt_and_never_the_backbone(name):
    """Gradients flow through the frozen backbone to all sites; its bytes stay the same."""
    backbone = makers.backbone(name)
    spec = prompt_spec(backbone.spec)
    adapter = makers.randomise(Adapter(spec, head_spec(backbone.spec, 3), backbone.spec))
    model = AdapterModel(backbone, adapter).train()
    optimiser = torch.optim.SGD(adapter.parameters(), lr=1e-3, momentum=0.9)
    size = backbone.spec.preprocessing
    for _ in range(2):
        images_BCHW = torch.randn(4, 3, size.height, size.width)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images_BCHW), torch.tensor([0, 1, 2, 0])).backward()
        optimiser.step()
    # A bias ahead of a BatchNorm is taken out by the norm's mean: its gradient is rounding noise.
    absorbed = ("conv1.bias", "conv2.bias", "conv3.bias")
    for parameter_name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, parameter_name
        if not parameter_name.endswith(absorbed):
            assert parameter.grad.abs().max() > 0, parameter_name
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert backbone.fingerprint_now() == backbone.spec.fingerprint


def test_frozen_backbone_stays_in_eval_mode():
    """`train()` on the whole model trains the adapter's BatchNorms and leaves the backbone's."""
    model = makers.model("test_resnet").train()
    assert model.adapter.training
    assert not any(module.training for module in model.backbone.modules())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_unknown_name_suggests_near_ones():
    """A typo ends in an error that names what may have been meant."""
    with pytest.raises(UnknownBackbone, match="resnet50"):
        describe("resnet5O")


def test_unknown_tag_says_so():
    """A wrong pretrained tag is named as such."""
    with pytest.raises(UnknownBackbone, match="tag"):
        describe("resnet50.nothing")


def test_unsupported_family_says_which_are_supported():
    """A timm model without a known cut is refused by its class."""
    with pytest.raises(UnknownBackbone, match=r"Mixer.*ResNet"):
        describe("mixer_s32_224")


def test_a_model_that_does_not_run_at_its_own_size_is_refused():
    """One ViT of timm has another input size than its position embedding."""
    with pytest.raises(UnknownBackbone, match="data config"):
        describe("vitamin_xlarge_336")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_resnet", {"sites": "F5"}, "Table 10"),
        ("test_vit", {"sites": "F5", "blocks": 2}, "--blocks"),
        ("test_resnet", {"sites": "stage9"}, "stage1, stage2"),
        ("test_resnet", {"sites": "bogus"}, r"no prompt site .bogus.\. It has stage1, stage2"),
        ("test_resnet", {"sites": "stage2,stage1"}, "order"),
        ("test_resnet", {"sites": "stage1,stage1"}, "twice"),
        ("test_resnet", {"groups": 7}, "groups"),
        ("test_resnet", {"kernel_size": 4}, "odd"),
        ("test_resnet", {"blocks": 99}, "blocks"),
    ],
)
def test_impossible_prompt_configurations_are_refused(name, options, message):
    """Each mistake in a prompt configuration ends in InvalidSpec with the way out."""
    with pytest.raises(InvalidSpec, match=message):
        prompt_spec(describe(name), **options)

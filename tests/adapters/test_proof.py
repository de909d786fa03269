"""The golden proof: the same inputs everywhere, right pipelines pass, wrong ones fail."""

import hashlib

import pytest
import torch

from adapters import proof as proof_module
from adapters.checkpoint import make_checkpoint
from adapters.errors import ProofFailed, ProofInsensitive
from adapters.head import head_spec
from adapters.manifest import GoldenInputs, Manifest, Preprocessing, Provenance
from adapters.model import Adapter, AdapterModel
from adapters.preprocess import normalize
from adapters.prompt import prompt_spec
from adapters.proof import check_logits, golden_batch, golden_images, make_proof
from tests import makers


def test_golden_images_never_change():
    """The byte stream is pinned: another release that drew other images would break every proof."""
    proof = GoldenInputs(seed=3, sizes=((33, 20), (7, 50)))
    images = [*golden_images(proof)]
    assert [image.shape for image in images] == [(33, 20, 3), (7, 50, 3)]
    digest = hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
    assert digest == "bdd1bf22ae8c218cacf0673053a6b73e7946759f4740adca8b443f8e0285140b"


def test_golden_images_are_not_of_the_backbones_size():
    """So that a replay goes through the real resizing."""
    checkpoint = makers.checkpoint("test_resnet")
    size = checkpoint.manifest.backbone.preprocessing
    for height, width in checkpoint.manifest.proof.sizes:
        assert height != size.height
        assert width != size.width


@pytest.mark.parametrize("side", [1, 160, 224, 600, 896, 4096])
def test_every_input_size_has_golden_images(side):
    """The manifest's bounds allow the golden images of any backbone that it allows."""
    manifest = makers.checkpoint("test_resnet").manifest.model_dump()
    manifest["backbone"]["preprocessing"] |= {"height": side, "width": side}
    sized = Preprocessing(**manifest["backbone"]["preprocessing"])
    manifest["proof"]["sizes"] = proof_module._sizes(sized)
    Manifest(**manifest)


@pytest.mark.parametrize("name", makers.SMALL_BACKBONES.values())
def test_the_right_pipeline_passes_in_both_dtypes(name):
    """The oracle reproduces the golden logits in every family."""
    model = makers.model(name)
    proof, golden = make_proof(model)
    replayed = model.predict(golden_batch(proof, model.backbone.spec.preprocessing))
    check_logits(proof, golden, replayed, "float32")
    check_logits(proof, golden, replayed, "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mistake", ["mean and std", "BGR", "prompts", "NaN", "swapped"])
def test_wrong_pipelines_fail(dtype, mistake):
    """Each of the mistakes that the proof is there for, made through the oracle."""
    model = makers.model("test_resnet")
    proof, golden = make_proof(model)
    preprocessing = model.backbone.spec.preprocessing
    pixels = golden_batch(proof, preprocessing)
    if mistake == "mean and std":
        wrong = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        if preprocessing.mean == wrong["mean"]:
            wrong = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        with torch.inference_mode():
            replayed = model(normalize(pixels, preprocessing.model_copy(update=wrong)))
    elif mistake == "BGR":
        replayed = model.predict(pixels.flip(-1))
    elif mistake == "prompts":
        bare = Adapter(
            prompt_spec(model.backbone.spec, sites="none"),
            model.adapter.head_spec,
            model.backbone.spec,
        )
        bare.head.load_state_dict(model.adapter.head.state_dict())
        replayed = AdapterModel(model.backbone, bare).predict(pixels)
    elif mistake == "NaN":
        replayed = torch.full_like(golden, torch.nan)
    else:
        replayed = model.predict(pixels).flip(0)
    with pytest.raises(ProofFailed, match=dtype):
        check_logits(proof, golden, replayed, dtype)


def test_one_dropped_site_fails_in_float32():
    """Losing a single prompt block is noticed, not only losing all of them."""
    model = makers.model("test_resnet")
    proof, golden = make_proof(model)
    for site in model.adapter.prompts:
        with torch.no_grad():
            (block,) = model.adapter.blocks(site)
            beta = block.beta.clone()
            block.beta.zero_()
            replayed = model.predict(golden_batch(proof, model.backbone.spec.preprocessing))
            block.beta.copy_(beta)
        with pytest.raises(ProofFailed):
            check_logits(proof, golden, replayed, "float32")


def test_an_adapter_whose_prompts_do_nothing_is_not_written():
    """An untrained (identity) adapter cannot be told from one with dropped prompts: refused."""
    backbone = makers.backbone("test_resnet")
    adapter = Adapter(prompt_spec(backbone.spec), head_spec(backbone.spec, 3), backbone.spec)
    torch.nn.init.normal_(adapter.head.weight)
    with pytest.raises(ProofInsensitive, match="dropped prompts"):
        make_checkpoint(
            AdapterModel(backbone, adapter).eval(),
            makers.labels(3),
            Provenance(method="pro-tuning"),
        )

"""Real ImageNet weights and photographs: the bare staged backbones see what is there."""

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo, create_transform, resolve_data_config

from adapters.backbone import load_backbone
from adapters.errors import BrokenImage
from adapters.preprocess import EvalTransform, decode, normalize

NAMES = ["vit_tiny_patch16_224", "mobilenetv2_100"]
SEEN = {
    "cat_chelsea_rgb.png": "Egyptian cat",
    "cat_chelsea_progressive_derived.jpg": "Egyptian cat",
    "coffee_rgb.png": "espresso",
    "coffee_cmyk_derived.jpg": "espresso",
    "icc_profile_progressive.jpg": "sandbar",
}


@pytest.mark.parametrize("name", NAMES)
def test_photographs_get_their_class_and_timms_logits(name, real_inputs):
    """The right ImageNet class, timm's own logits on our pixels, and nearly those on timm's."""
    path = real_inputs / "weights" / f"{name}.safetensors"
    backbone = load_backbone(name, path)
    theirs = timm.create_model(name, pretrained=False).eval()
    theirs.load_state_dict(load_file(path))
    timms_transform = create_transform(**resolve_data_config({}, model=theirs))
    ours = EvalTransform(backbone.spec.preprocessing)
    classes = ImageNetInfo()
    for photo, expected in SEEN.items():
        image = decode((real_inputs / "data" / "photos" / photo).read_bytes())
        pixels_BHWC = torch.from_numpy(ours(image))[None]
        with torch.inference_mode():
            images_BCHW = normalize(pixels_BHWC, backbone.spec.preprocessing)
            logits = backbone(images_BCHW)
            assert torch.allclose(logits, theirs(images_BCHW), atol=1e-4)
            on_timms_pixels = theirs(timms_transform(image)[None])
        assert torch.allclose(logits.softmax(1), on_timms_pixels.softmax(1), atol=0.01)
        assert expected in classes.index_to_description(int(logits.argmax()))


def test_every_awkward_photograph_decodes_or_is_refused(real_inputs):
    """All files of the collection become RGB but the two that are broken."""
    for path in sorted((real_inputs / "data" / "photos").iterdir()):
        if path.name.startswith("broken"):
            with pytest.raises(BrokenImage):
                decode(path.read_bytes())
        else:
            assert decode(path.read_bytes()).mode == "RGB"

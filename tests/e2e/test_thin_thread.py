"""The whole road in small: train an adapter, write it, read it, predict with it."""

import torch
from PIL import Image

from adapters.checkpoint import make_checkpoint, read, write
from adapters.head import head_spec
from adapters.manifest import Provenance
from adapters.model import Adapter, AdapterModel
from adapters.preprocess import EvalTransform, decode, normalize
from adapters.prompt import prompt_spec
from tests import makers

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 40, 40)}


def _photos(colour, count, seed):
    """Encoded pictures in one of the colours, no two alike."""
    for number in range(count):
        image = makers.picture(120, 140, seed + number).convert("L").convert("RGB")
        tinted = (
            torch.tensor(COLOURS[colour]) * 0.7
            + torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(120, 140, 3)
            * 0.3
        )
        yield makers.encode(Image.fromarray(tinted.to(torch.uint8).numpy()), "JPEG")


def _batch(transform, count, seed):
    pictures = [
        (data, label)
        for label, colour in enumerate(sorted(COLOURS))
        for data in _photos(colour, count, seed)
    ]
    pixels = torch.stack([torch.from_numpy(transform(decode(data))) for data, _ in pictures])
    return pixels, torch.tensor([label for _, label in pictures])


def test_train_write_read_predict(tmp_path):
    """A tiny adapter learns three classes; the file gives the same answers on new pictures."""
    torch.manual_seed(0)
    backbone = makers.backbone("test_resnet")
    adapter = Adapter(prompt_spec(backbone.spec), head_spec(backbone.spec, 3), backbone.spec)
    model = AdapterModel(backbone, adapter).train()
    transform = EvalTransform(backbone.spec.preprocessing)
    pixels, targets = _batch(transform, 8, seed=0)
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=3e-3)
    for _ in range(12):
        optimiser.zero_grad()
        logits = model(normalize(pixels, backbone.spec.preprocessing))
        torch.nn.functional.cross_entropy(logits, targets).backward()
        optimiser.step()

    path = tmp_path / "adapter.safetensors"
    provenance = Provenance(method="pro-tuning", data="three colours")
    write(path, make_checkpoint(model.eval(), tuple(sorted(COLOURS)), provenance))

    checkpoint = read(path)
    served = checkpoint.model(backbone)
    pixels, targets = _batch(transform, 4, seed=100)
    predicted = served.predict(pixels).argmax(dim=1)
    assert [checkpoint.manifest.labels[index] for index in predicted] == [
        sorted(COLOURS)[index] for index in targets
    ]
    assert torch.equal(served.predict(pixels), model.predict(pixels))
    assert backbone.fingerprint_now() == checkpoint.manifest.backbone.fingerprint

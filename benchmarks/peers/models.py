"""What the peers that keep one full fine-tuned model a task have in common: the model, eagerly."""

import io

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

CLASSES = 100


def load(backbone: str, task: int) -> nn.Module:
    """A task's own model. Random weights: only its speed and size matter here."""
    torch.manual_seed(task)
    return timm.create_model(backbone, num_classes=CLASSES).eval()


class Preprocessing:
    """timm's evaluation transform from the bytes of an image."""

    def __init__(self, backbone: str) -> None:
        with torch.device("meta"):
            model = timm.create_model(backbone)
        self._transform = create_transform(**resolve_data_config({}, model=model))

    def __call__(self, data: bytes) -> Tensor:
        """float32 [3, H, W]."""
        return self._transform(Image.open(io.BytesIO(data)).convert("RGB"))


@torch.inference_mode()
def answer(model: nn.Module, images_BCHW: Tensor) -> list[dict[str, list[float]]]:
    """The five likeliest classes of each image."""
    scores, indices = model(images_BCHW).softmax(-1).topk(5)
    return [
        {"scores": row_scores, "indices": row}
        for row_scores, row in zip(scores.tolist(), indices.tolist(), strict=True)
    ]

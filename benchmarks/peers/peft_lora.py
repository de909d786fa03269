"""PEFT: LoRA adapters on a timm ViT, and mixed batches by `adapter_names`."""

import argparse

import timm
import torch
from batches import serve_rounds
from models import CLASSES
from peft import LoraConfig, get_peft_model


class _Images(torch.nn.Module):
    """timm's model in the signature that PEFT's mixed batches want."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.vit = timm.create_model(backbone, num_classes=CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.vit(images)


def main(backbone: str, tasks: int, batch: int) -> None:
    """LoRA of rank 8 on every attention's projections; the head is shared, which favours PEFT."""
    config = LoraConfig(r=8, target_modules=["qkv", "proj"], init_lora_weights=False)
    model = get_peft_model(_Images(backbone), config, adapter_name="task0")
    for number in range(1, tasks):
        model.add_adapter(f"task{number}", config)
    model.eval()
    images = torch.rand(batch, 3, 224, 224)

    @torch.inference_mode()
    def run(number: int) -> None:
        names = [f"task{(number * batch + image) % tasks}" for image in range(batch)]
        model(images, adapter_names=names)

    serve_rounds(run, batch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("tasks", type=int)
    parser.add_argument("batch", type=int)
    given = parser.parse_args()
    main(given.backbone, given.tasks, given.batch)

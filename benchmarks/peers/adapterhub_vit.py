"""AdapterHub: bottleneck adapters on a ViT of DeiT-S's size, mixed batches by `BatchSplit`."""

import argparse

import torch
from adapters.composition import BatchSplit
from batches import serve_rounds
from transformers import ViTConfig, ViTModel

import adapters
from adapters import SeqBnConfig

# transformers knows ViTs by their sizes, timm by their names.
SIZES = {
    "vit_tiny_patch16_224": (192, 3),
    "deit_small_patch16_224": (384, 6),
    "deit_base_patch16_224": (768, 12),
}


def main(backbone: str, tasks: int, batch: int) -> None:
    """Adapters that reduce 16-fold after each layer; no heads at all, which favours AdapterHub."""
    width, heads = SIZES[backbone]
    config = ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
    model = ViTModel(config, add_pooling_layer=False)
    adapters.init(model)
    for number in range(tasks):
        model.add_adapter(f"task{number}", config=SeqBnConfig(reduction_factor=16))
    model.eval()
    images = torch.rand(batch, 3, 224, 224)

    @torch.inference_mode()
    def run(number: int) -> None:
        names = [f"task{(number * batch + image) % tasks}" for image in range(batch)]
        model.set_active_adapters(BatchSplit(*names, batch_sizes=[1] * batch))
        model(images)

    serve_rounds(run, batch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("tasks", type=int)
    parser.add_argument("batch", type=int)
    given = parser.parse_args()
    main(given.backbone, given.tasks, given.batch)

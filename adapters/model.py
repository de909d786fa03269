"""ONE task end to end: the model that training optimises and every engine is compared with."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adapters.backbone import StagedBackbone
from adapters.head import make_head
from adapters.manifest import Architecture, HeadSpec, PromptSpec
from adapters.preprocess import normalize
from adapters.prompt import FoldedPrompt, PromptBlock, check_spec, fold_block


class Adapter(nn.Module):
    """The trainable part of a task: prompt blocks by site, and a head.

    Its state (without BatchNorm's step counters) is what a checkpoint stores.
    """

    def __init__(self, prompt: PromptSpec, head: HeadSpec, architecture: Architecture) -> None:
        """Make the modules for `architecture`.

        Raises:
            InvalidSpec: the backbone cannot carry `prompt`.
        """
        super().__init__()
        check_spec(prompt, architecture)
        channels = {site.name: site.channels for site in architecture.sites}
        self.prompt_spec = prompt
        self.head_spec = head
        self.prompts = nn.ModuleDict(
            {
                placement.site: nn.ModuleList(
                    PromptBlock(channels[placement.site], prompt) for _ in range(placement.blocks)
                )
                for placement in prompt.placements
            }
        )
        self.head = make_head(head)

    def fold(self) -> dict[str, tuple[FoldedPrompt, ...]]:
        """The prompt blocks of every site in their inference form."""
        return fold_prompts(self.state_dict(), self.prompt_spec)

    def blocks(self, site: str) -> list[PromptBlock]:
        """The prompt blocks at `site`, in the order of the forward pass; none: an empty list."""
        return [*self.prompts[site]] if site in self.prompts else []  # type: ignore[misc]


def fold_prompts(
    state: Mapping[str, Tensor], spec: PromptSpec
) -> dict[str, tuple[FoldedPrompt, ...]]:
    """The same from an adapter's state: making the modules first takes ten times as long."""
    blocks: dict[tuple[str, int], dict[str, Tensor]] = defaultdict(dict)
    for name, values in state.items():
        if name.startswith("prompts."):
            _, site, number, rest = name.split(".", 3)
            blocks[site, int(number)][rest] = values
    return {
        placement.site: tuple(
            fold_block(blocks[placement.site, number], spec) for number in range(placement.blocks)
        )
        for placement in spec.placements
    }


class AdapterModel(nn.Module):
    """A frozen backbone with one adapter: normalised images [B, 3, H, W] -> logits [B, classes]."""

    def __init__(self, backbone: StagedBackbone, adapter: Adapter) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The logits of the adapter's head."""
        logits: Tensor = self.adapter.head(self.features(images_BCHW))
        return logits

    def features(self, images_BCHW: Tensor) -> Tensor:
        """The pooled features with the prompts blended in at every site [B, feature_dim]."""
        return self.backbone.features(images_BCHW, self._blend)

    def _blend(self, site: str, features: Tensor) -> Tensor:
        """Eq. (1) at one site: x + beta * f(x), once for each block."""
        layout = self.backbone.layout
        for block in self.adapter.blocks(site):
            prompt_BCHW = block(layout.read(features))
            features = layout.blend(features, prompt_BCHW, self.adapter.prompt_spec.class_token)
        return features

    @torch.inference_mode()
    def predict(self, images_BHWC: Tensor) -> Tensor:
        """uint8 pixels [B, H, W, 3] of the backbone's input size -> float32 logits, in eval mode.

        This is the slow, obvious path that every serving engine is compared with.
        """
        was_training = self.training
        self.eval()
        try:
            preprocessing = self.backbone.spec.preprocessing
            return self(normalize(images_BHWC, preprocessing)).float()
        finally:
            self.train(was_training)


def count_parameters(
    prompt: PromptSpec, head: HeadSpec, architecture: Architecture
) -> dict[str, int]:
    """Trainable parameters of an adapter: `prompt`, `head` and their sum `total`.

    Counted on real modules without memory, so that the count cannot drift from the model.
    """
    with torch.device("meta"):
        adapter = Adapter(prompt, head, architecture)
    prompts, linear = (
        sum(p.numel() for p in part.parameters()) for part in (adapter.prompts, adapter.head)
    )
    return {"prompt": prompts, "head": linear, "total": prompts + linear}

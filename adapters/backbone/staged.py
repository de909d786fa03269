"""The frozen backbone as a chain of stages with prompt sites between them."""

from collections.abc import Callable, Iterable
from typing import Self

from torch import Tensor, nn

from adapters.backbone.cut import Stage
from adapters.backbone.families import family_of
from adapters.backbone.fingerprint import classifier_keys, fingerprint
from adapters.backbone.layout import MapLayout
from adapters.manifest import Architecture, BackboneSpec

AtSite = Callable[[str, Tensor], Tensor]


class StagedBackbone(nn.Module):
    """A timm model whose forward pass can be entered between its stages.

    It is frozen: no parameter requires a gradient, and it stays in eval mode (BatchNorm
    statistics too) whatever `train()` is asked for. Gradients still flow through it. Only
    baselines `thaw` parts of it.

    Attributes:
        model: timm's model, classifier included.
        spec: its description with the fingerprint.
        stages: one callable per site; stage i ends at `spec.sites[i]`.
        layout: how the features between stages become maps [B, C, H, W] and back.
    """

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        cut = family_of(model).cut(model)
        self.model = model.requires_grad_(requires_grad=False)
        self.spec = BackboneSpec(
            **architecture.model_dump(), fingerprint=fingerprint(model, architecture)
        )
        # In tuples, not ModuleLists: the model owns the modules, and has each of them once.
        self.stages: tuple[Stage, ...] = cut.stages
        self.layout: MapLayout = cut.layout
        self._cut = cut
        self._thawed: tuple[nn.Module, ...] = ()
        self._timm_head: Callable[..., Tensor] = self.model.forward_head  # type: ignore[assignment]
        self.train(mode=False)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  torch's signature
        """Stay in eval mode, but for parts that were thawed."""
        super().train(mode=False)
        for part in self._thawed:
            part.train(mode)
        return self

    def thaw(self, parts: Iterable[nn.Module]) -> None:
        """Let parts of `model` train, never timm's classifier; the spec no longer describes it."""
        self._thawed = tuple(parts)
        classifier = classifier_keys(self.model)
        unused = {id(p) for name, p in self.model.named_parameters() if name.startswith(classifier)}
        for part in self._thawed:
            for parameter in part.parameters():
                parameter.requires_grad_(id(parameter) not in unused)

    @property
    def tail(self) -> Stage:
        """From the last site to the features that the pool takes."""
        # Not an attribute: a module would be registered here a second time.
        return self._cut.tail

    def pool(self, features: Tensor) -> Tensor:
        """The features after the last site as one vector per image [B, feature_dim]."""
        return self._timm_head(self.tail(features), pre_logits=True)

    def features(self, images_BCHW: Tensor, at_site: AtSite) -> Tensor:
        """Normalised images to pooled features [B, feature_dim].

        `at_site(name, features)` is called after every stage and returns the features that the
        next stage takes.
        """
        return self.pool(self._to_last_site(images_BCHW, at_site))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The logits of timm's own classifier, without prompts: equal to timm's forward."""
        last = self._to_last_site(images_BCHW, lambda _, features: features)
        return self._timm_head(self.tail(last))

    def fingerprint_now(self) -> str:
        """The fingerprint of the weights as they are; equal to the spec's while frozen."""
        return fingerprint(self.model, self.spec)

    def _to_last_site(self, images_BCHW: Tensor, at_site: AtSite) -> Tensor:
        features = images_BCHW
        for stage, site in zip(self.stages, self.spec.sites, strict=True):
            features = at_site(site.name, stage(features))
        return features

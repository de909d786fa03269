"""Frozen timm models cut into stages, with the places that take prompts as data."""

from adapters.backbone.architecture import describe
from adapters.backbone.loading import load_backbone
from adapters.backbone.staged import StagedBackbone

__all__ = ["StagedBackbone", "describe", "load_backbone"]

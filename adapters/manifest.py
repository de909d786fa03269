"""Frozen, bounded descriptions: backbone, prompt, head, manifest, and a reference to an adapter."""

import json
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    JsonValue,
    model_validator,
)

MAX_CLASSES = 10_000
MAX_SITES = 64
MAX_BLOCKS_PER_SITE = 8
MAX_BLOCKS = 64


class Frozen(BaseModel):
    """Immutable, strict, and closed: unknown fields and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _is_odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that a map keeps its size")
    return value


def _is_printable(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("must hold printable characters, and not only spaces")
    return value


def _is_finite_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(value, allow_nan=False)  # raises ValueError
    return value


def _has_no_duplicate(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not name the same thing twice")
    return values


Activation = Literal["relu", "gelu", "silu", "hardswish"]
ClassToken = Literal["mean", "none"]
Label = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_is_printable)]
Printable = Annotated[str, AfterValidator(_is_printable)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SiteName = Annotated[str, Field(pattern=r"^(embed|(stage|layer)[0-9]{1,3})$")]
TaskId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
TenantId = TaskId
Channels = Annotated[int, Field(ge=1, le=16_384)]
Pixels = Annotated[int, Field(ge=1, le=4_096)]
Rgb = tuple[float, float, float]
Scale = Annotated[float, Field(ge=1e-3)]


class Preprocessing(Frozen):
    """The evaluation transform of a backbone, as timm's data config states it.

    `crop_pct` and `crop_mode` have timm's meaning. `mean` and `std` are per RGB channel, for
    pixels scaled to [0, 1].
    """

    height: Pixels
    width: Pixels
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    crop_mode: Literal["center", "squash", "border"]
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
    mean: Rgb
    std: tuple[Scale, Scale, Scale]


class Site(Frozen):
    """A place in a backbone that takes prompts: a map of `channels` x `height` x `width`."""

    name: SiteName
    channels: Channels
    height: Pixels
    width: Pixels


class Architecture(Frozen):
    """The structure of a backbone: everything about it but its weights.

    `stage_sites` are the sites of the paper's default (one block after each stage), in order;
    `sites` holds these and any others the family offers, in the order of the forward pass.
    """

    name: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_is_printable)]
    family: Literal["resnet", "regnet", "vit", "swin", "convnext", "efficientnet"]
    sites: Annotated[tuple[Site, ...], Field(min_length=1, max_length=MAX_SITES), FailFast()]
    stage_sites: Annotated[
        tuple[SiteName, ...], Field(min_length=1, max_length=MAX_SITES), FailFast()
    ]
    feature_dim: Annotated[int, Field(ge=1, le=65_536)]
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _sites_are_distinct(self) -> Self:
        names = _has_no_duplicate(tuple(site.name for site in self.sites))
        if self.stage_sites != tuple(name for name in names if name in self.stage_sites):
            raise ValueError("stage_sites must be some of the sites, in their order")
        return self


class BackboneSpec(Architecture):
    """An architecture with one set of weights.

    `fingerprint` is the sha256 over the canonical weights and the architecture
    (see `adapters.backbone.fingerprint`).
    """

    fingerprint: Sha256


class Placement(Frozen):
    """So many prompt blocks at one site, run one after the other."""

    site: SiteName
    blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS_PER_SITE)]


class PromptSpec(Frozen):
    """The configuration of an adapter's prompt blocks (section 3.1 and Tables 9 to 12).

    `beta` is the fixed constant of Eq. (1), or None where it is learned. `class_token` says what
    a ViT's class token receives: the prompt's spatial mean, or nothing. No placements: head only.
    """

    placements: Annotated[tuple[Placement, ...], Field(max_length=MAX_SITES), FailFast()] = ()
    kernel_size: Annotated[int, Field(ge=1, le=15), AfterValidator(_is_odd)] = 5
    groups: Annotated[int, Field(ge=1, le=64)] = 4
    se_reduction: Annotated[int, Field(ge=1, le=64)] = 16
    activation: Activation = "relu"
    beta: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    class_token: ClassToken = "mean"

    @model_validator(mode="after")
    def _sites_are_distinct(self) -> Self:
        _has_no_duplicate(tuple(placement.site for placement in self.placements))
        if sum(placement.blocks for placement in self.placements) > MAX_BLOCKS:
            raise ValueError(f"must not have more than {MAX_BLOCKS} blocks in all")
        return self


class HeadSpec(Frozen):
    """A fully-connected layer: `in_features` -> `classes`."""

    in_features: Annotated[int, Field(ge=1, le=65_536)]
    classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]


class Tolerance(Frozen):
    """How far replayed logits may lie from the golden ones (root mean square), per dtype."""

    float32: Annotated[float, Field(gt=0)]
    bfloat16: Annotated[float, Field(gt=0)]


class GoldenInputs(Frozen):
    """The golden images: a seed and their sizes (height, width), see `adapters.proof`."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    sizes: Annotated[
        tuple[
            tuple[Annotated[int, Field(ge=1, le=7_200)], Annotated[int, Field(ge=1, le=7_200)]], ...
        ],
        Field(min_length=1, max_length=4),
        FailFast(),
    ]


class GoldenProof(GoldenInputs):
    """The golden inputs, and how far the replayed logits may lie from the golden ones."""

    tolerance: Tolerance


class Provenance(Frozen):
    """Where an adapter comes from: for people and reports, never read by the serving path.

    `data` and `config` name folders and files, which may be called anything: a run must not fail
    at its end for that. Whoever shows them escapes them.
    """

    method: Annotated[Printable, Field(max_length=64)]
    data: Annotated[str, Field(max_length=1_024)] = ""
    metrics: dict[Printable, float] = Field(default_factory=dict, max_length=64)
    libraries: dict[Printable, Printable] = Field(default_factory=dict, max_length=64)
    config: Annotated[dict[str, JsonValue], AfterValidator(_is_finite_json)] = Field(
        default_factory=dict, max_length=256
    )


class Manifest(Frozen):
    """Everything a checkpoint says about its tensors."""

    format_version: Annotated[int, Field(ge=1, le=1)] = 1
    backbone: BackboneSpec
    prompt: PromptSpec
    head: HeadSpec
    labels: Annotated[
        tuple[Label, ...],
        Field(max_length=MAX_CLASSES),
        FailFast(),
        AfterValidator(_has_no_duplicate),
    ]
    provenance: Provenance
    proof: GoldenProof

    @model_validator(mode="after")
    def _golden_images_are_about_as_large_as_the_input(self) -> Self:
        # Whoever replays the proof makes them anew.
        taken = self.backbone.preprocessing
        for height, width in self.proof.sizes:
            for side, usual in ((height, taken.height), (width, taken.width)):
                if not usual <= 2 * side <= 4 * usual:
                    raise ValueError(
                        "the proof's sizes must lie between half and double the backbone's input"
                    )
        return self


class AdapterRef(Frozen):
    """One immutable version of one tenant's task. `digest` is the checkpoint's own sha256."""

    tenant: TenantId
    task: TaskId
    version: Annotated[int, Field(ge=1)]
    digest: Sha256


def squeeze_channels(channels: int, reduction: int) -> int:
    """Width of the SE bottleneck: C/r rounded down, at least 1."""
    return max(1, channels // reduction)

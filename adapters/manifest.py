"""Frozen, bounded descriptions: backbone, prompt, head, manifest, and a reference to an adapter."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

MAX_CLASSES = 10_000
MAX_SITES = 64
MAX_BLOCKS_PER_SITE = 8


class Frozen(BaseModel):
    """Immutable, strict, and closed: unknown fields and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _is_odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that a map keeps its size")
    return value


def _is_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must hold printable characters only")
    return value


def _has_no_duplicate(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not name the same thing twice")
    return values


Activation = Literal["relu", "gelu", "silu", "hardswish"]
ClassToken = Literal["mean", "none"]
Label = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_is_printable)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,31}$")]
TaskId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
TenantId = TaskId
Channels = Annotated[int, Field(ge=1, le=16_384)]
Pixels = Annotated[int, Field(ge=1, le=4_096)]
Rgb = tuple[float, float, float]


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
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ]


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
    sites: Annotated[tuple[Site, ...], Field(min_length=1, max_length=MAX_SITES)]
    stage_sites: Annotated[tuple[SiteName, ...], Field(min_length=1, max_length=MAX_SITES)]
    feature_dim: Annotated[int, Field(ge=1, le=65_536)]
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _sites_are_distinct(self) -> Self:
        _has_no_duplicate(tuple(site.name for site in self.sites))
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

    placements: Annotated[tuple[Placement, ...], Field(max_length=MAX_SITES)] = ()
    kernel_size: Annotated[int, Field(ge=1, le=15), AfterValidator(_is_odd)] = 5
    groups: Annotated[int, Field(ge=1, le=64)] = 4
    se_reduction: Annotated[int, Field(ge=1, le=64)] = 16
    activation: Activation = "relu"
    beta: float | None = None
    class_token: ClassToken = "mean"

    @model_validator(mode="after")
    def _sites_are_distinct(self) -> Self:
        _has_no_duplicate(tuple(placement.site for placement in self.placements))
        return self


class HeadSpec(Frozen):
    """A fully-connected layer: `in_features` -> `classes`."""

    in_features: Annotated[int, Field(ge=1, le=65_536)]
    classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]


class GoldenProof(Frozen):
    """How to replay the golden inputs, and how far the logits may differ.

    `seed` and `sizes` (height, width) give the images (see `adapters.proof.golden_images`).
    `tolerance` is the largest root mean square difference of the logits, per dtype.
    """

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    sizes: Annotated[
        tuple[
            tuple[Annotated[int, Field(ge=1, le=1_024)], Annotated[int, Field(ge=1, le=1_024)]], ...
        ],
        Field(min_length=1, max_length=16),
    ]
    tolerance: dict[Literal["float32", "bfloat16"], Annotated[float, Field(gt=0)]]


class Provenance(Frozen):
    """Where an adapter comes from: for people and reports, never read by the serving path."""

    method: Annotated[str, Field(max_length=64)]
    data: Annotated[str, Field(max_length=1_024)] = ""
    metrics: dict[str, float] = Field(default_factory=dict, max_length=64)
    libraries: dict[str, str] = Field(default_factory=dict, max_length=64)
    config: dict[str, JsonValue] = Field(default_factory=dict, max_length=256)


class Manifest(Frozen):
    """Everything a checkpoint says about its tensors."""

    format_version: Literal[1] = 1
    backbone: BackboneSpec
    prompt: PromptSpec
    head: HeadSpec
    labels: Annotated[tuple[Label, ...], AfterValidator(_has_no_duplicate)]
    provenance: Provenance
    proof: GoldenProof


class AdapterRef(Frozen):
    """One immutable version of one tenant's task. `digest` is the checkpoint's own sha256."""

    tenant: TenantId
    task: TaskId
    version: Annotated[int, Field(ge=1)]
    digest: Sha256


def squeeze_channels(channels: int, reduction: int) -> int:
    """Width of the SE bottleneck: C/r rounded down, at least 1."""
    return max(1, channels // reduction)

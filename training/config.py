"""The options of a training run: one frozen record, its file, and what its fields mean."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

import tomli_w
from pydantic import AfterValidator, Field, ValidationError, model_validator

from adapters.manifest import Activation, ClassToken, Frozen
from training.errors import InvalidConfig

MethodName = Literal[
    "pro-tuning", "head", "full", "partial-1", "partial-2", "scratch", "pro-tuning-full"
]
Augment = Literal["none", "light", "medium", "strong"]
Schedule = Literal["cosine", "tanh", "poly", "constant"]


def _is_not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty: give a path or a name")
    return value


Name = Annotated[str, AfterValidator(_is_not_blank)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# Options that mean nothing where there are no prompts.
OF_PROMPTS = {"sites", "blocks", "kernel", "groups", "activation", "beta", "class_token"}
# For the options that have no default.
_HOW_TO_NAME = {
    "data": "Name the data set: a folder such as flowers/, an archive, or a timm name.",
    "backbone": "Name the backbone with --backbone, such as --backbone vit_tiny_patch16_224.",
}


class TrainConfig(Frozen):
    """Everything that decides a run's result, and how it is carried out.

    A field's description is the help text of its flag. None means the method's own default, or
    no limit.
    """

    data: Name = Field(description="Folder, .tar, .zip, or timm name (hfds/, torch/, wds/).")
    backbone: Name = Field(description="A timm model, such as vit_tiny_patch16_224.")
    weights: Name = Field("hub", description="Safetensors file with timm's keys, hub, or random.")
    method: MethodName = Field("pro-tuning", description="What is trained, and from where.")

    sites: str = Field("stages", description="stages, F1, F5, L1, L5, U5, or site names.")
    blocks: Positive = Field(1, description="Prompt blocks at each site.")
    kernel: Positive = Field(5, description="Kernel of the depthwise convolution, odd.")
    groups: Positive = Field(4, description="Groups of the 1x1 convolutions.")
    activation: Activation = Field("relu", description="Of the prompt block.")
    beta: float | None = Field(None, description="A constant for the paper's beta; else learned.")
    class_token: ClassToken = Field("mean", description="What a ViT's class token receives.")

    data_root: Name | None = Field(None, description="Where the files of a timm name lie.")
    download: bool = Field(default=False, description="Let timm download the data set.")
    skip_broken: bool = Field(default=False, description="Go on without broken images.")
    val_fraction: Fraction = Field(0.1, description="Of train, where there is no val split.")
    test_fraction: Fraction = Field(0.2, description="Of one folder without splits.")
    long_tail: Annotated[float, Field(ge=1)] | None = Field(
        None, description="Sample a long tail with this imbalance ratio."
    )
    shots: Positive | None = Field(None, description="Take so many training images a class.")
    augment: Augment | None = Field(
        None, description="none, light (crops), medium (also flips, colours), strong."
    )

    epochs: Positive | None = Field(None, description="Passes over the training images.")
    batch_size: Positive = Field(32, description="Images of one update, on all devices together.")
    accumulation: Positive = Field(1, description="Parts that a batch is computed in.")
    grad_checkpointing: bool = Field(
        default=False, description="Compute stages twice to save memory."
    )
    optimizer: str = Field("adamw", description="timm's name of the optimiser.")
    lr: Annotated[float, Field(gt=0)] | None = Field(None, description="Peak learning rate.")
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Of weights with two dimensions or more."
    )
    schedule: Schedule = Field("cosine", description="timm's name of the schedule.")
    warmup: Fraction = Field(0.1, description="Share of the updates in which the rate rises.")
    label_smoothing: Fraction = Field(0.0, description="Of the cross-entropy.")

    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Of everything random.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where it is faster."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Processes that decode images; else by the number of cores."
    )
    save_every: Annotated[float, Field(ge=0)] = Field(
        30.0, description="Seconds between saved states; 0 saves after each update."
    )
    tensorboard: bool = Field(default=False, description="Also write TensorBoard files.")

    @model_validator(mode="after")
    def _one_scenario(self) -> Self:
        if self.long_tail is not None and self.shots is not None:
            raise ValueError("take long_tail or shots, not both")
        return self

    @model_validator(mode="after")
    def _parts_hold_images(self) -> Self:
        if self.accumulation > self.batch_size:
            raise ValueError("accumulation splits a batch into parts of an image at least")
        return self


def make_config(options: dict[str, object]) -> TrainConfig:
    """The configuration with these options, every other one at its default.

    Raises:
        InvalidConfig: an unknown option, or one out of bounds.
    """
    try:
        return TrainConfig.model_validate(options)
    except ValidationError as error:
        raise InvalidConfig(_explain(error)) from error


def read_options(path: Path) -> dict[str, object]:
    """The options in a config.toml.

    Raises:
        InvalidConfig: the file cannot be read as TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(
            f"{path} is not a readable configuration ({error}). Pass the config.toml of a run."
        ) from error


def to_toml(config: TrainConfig) -> str:
    """The configuration as a file that `read_options` reads again; None is left out."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def _explain(error: ValidationError) -> str:
    problems = error.errors()
    if missing := [str(item["loc"][0]) for item in problems if item["type"] == "missing"]:
        return " ".join(_HOW_TO_NAME[name] for name in missing)
    told = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'options'}: "
        f"{item['msg'].removeprefix('Value error, ')}"
        for item in problems
    )
    return f"The options are not valid: {told}."

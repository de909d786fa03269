"""The adapter file: tensors, manifest and golden proof in one signed safetensors file."""

import os
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from adapters.backbone import StagedBackbone
from adapters.container import ContainerLimits, TensorEntry, check_object_sizes, pack, unpack
from adapters.durable import write_durably
from adapters.errors import (
    CheckpointNotFound,
    InvalidManifest,
    InvalidSpec,
    InvalidTensors,
    LabelCountMismatch,
    MissingTensor,
    NotFinite,
    UnexpectedTensor,
    UnsupportedFormatVersion,
    WrongBackbone,
    WrongTensorDtype,
    WrongTensorShape,
    first_error,
    shown,
)
from adapters.head import head_spec
from adapters.manifest import BackboneSpec, Frozen, Manifest, PromptSpec, Provenance, Sha256
from adapters.model import Adapter, AdapterModel
from adapters.proof import make_proof

GOLDEN_LOGITS = "proof.logits"
_STEP_COUNTER = "num_batches_tracked"
# Of one JSON object in the manifest, and of a tolerance relative to the largest golden logit.
_MOST_NAMES = 256
_MOST_FLOAT32 = 0.01
_MOST_BFLOAT16 = 0.5


class _Content(Frozen):
    """The JSON text of a checkpoint's container."""

    sha256: Sha256
    content: Manifest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One adapter version, as it lies in a file.

    Attributes:
        manifest: what it is and where it comes from.
        state: the adapter's tensors by name, float32.
        golden_logits: float32 [n, classes], see `adapters.proof`.
        digest: the sha256 that identifies it (64 hex characters).
        data: the file's bytes.
    """

    manifest: Manifest
    state: dict[str, Tensor] = field(repr=False)
    golden_logits: Tensor = field(repr=False)
    digest: str
    data: bytes = field(repr=False)

    def adapter(self) -> Adapter:
        """The modules with this checkpoint's tensors, in eval mode."""
        adapter = _empty_adapter(self.manifest).to_empty(device="cpu")
        adapter.load_state_dict(self.state, strict=False)
        _reset_step_counters(adapter)
        return adapter.eval()

    def model(self, backbone: StagedBackbone) -> AdapterModel:
        """The whole task on `backbone`.

        Raises:
            WrongBackbone: it was made for another one.
        """
        check_backbone(self.manifest, backbone.spec)
        return AdapterModel(backbone, self.adapter()).eval()


def make_checkpoint(
    model: AdapterModel, labels: tuple[str, ...], provenance: Provenance
) -> Checkpoint:
    """The checkpoint of a trained model that is on the CPU, golden proof included.

    Raises:
        InvalidManifest: labels or provenance are out of bounds.
        NotFinite: training ended in NaN or infinite values.
        ProofInsensitive: see `adapters.proof.make_proof`.
    """
    state = _state(model.adapter)
    _check_values(state)
    proof, golden_logits = make_proof(model)
    try:
        manifest = Manifest(
            backbone=model.backbone.spec,
            prompt=model.adapter.prompt_spec,
            head=model.adapter.head_spec,
            labels=labels,
            provenance=provenance,
            proof=proof,
        )
    except ValidationError as error:
        raise _invalid_manifest(error) from error
    data = pack({**state, GOLDEN_LOGITS: golden_logits}, manifest.model_dump_json())
    return parse(data)


def parse(data: bytes, limits: ContainerLimits | None = None) -> Checkpoint:
    """Read a checkpoint from untrusted bytes; everything about it is checked.

    Raises:
        CheckpointError: the subclass says what is wrong (see `adapters.errors`).
    """
    container = unpack(data, limits or ContainerLimits())
    manifest = _parse_manifest(container.text)
    _check_manifest(manifest)
    _check_entries(container.entries, _expected_shapes(manifest))
    tensors = container.tensors()
    _check_values(tensors)
    golden_logits = tensors.pop(GOLDEN_LOGITS)
    _check_tolerance(manifest, golden_logits)
    return Checkpoint(manifest, tensors, golden_logits, container.digest, data)


def read(path: Path, limits: ContainerLimits | None = None) -> Checkpoint:
    """Read a checkpoint file; everything about it is checked.

    Raises:
        CheckpointNotFound: there is no readable regular file at `path`.
        CheckpointError: the subclass says what is wrong (see `adapters.errors`).
    """
    limits = limits or ContainerLimits()
    try:
        with open(path, "rb", opener=_open_regular) as file:
            # One byte more than allowed tells a file that is too large, however it grows.
            data = file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        raise CheckpointNotFound(
            f"The checkpoint {path} cannot be read ({error}). Check the path and the permissions."
        ) from error
    return parse(data, limits)


def _open_regular(path: str, flags: int) -> int:
    # Not blocking: a named pipe would wait for its writer.
    handle = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError("not a regular file")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint file atomically: after a crash there is the old file or the new one.

    Raises:
        OSError: the disk is full or the directory cannot be written; nothing is left behind.
    """
    write_durably(path, checkpoint.data)
    path.chmod(0o644)


def check_backbone(manifest: Manifest, spec: BackboneSpec) -> None:
    """Refuse an adapter that was made for another backbone.

    Raises:
        WrongBackbone: other weights, another architecture or other preprocessing.
    """
    made_for = manifest.backbone
    if made_for.fingerprint != spec.fingerprint:
        raise WrongBackbone(
            f"The adapter was made for {made_for.name} ({made_for.fingerprint[:12]}), and this "
            f"backbone is {spec.name} ({spec.fingerprint[:12]}). Use the backbone and the weights "
            "that it was trained on, or train it again on this one."
        )
    if made_for.model_copy(update={"name": spec.name}) != spec:
        raise WrongBackbone(
            f"The adapter describes {made_for.name} with other sites or another preprocessing "
            "than this backbone has. Train it again on this one."
        )


def _state(adapter: Adapter) -> dict[str, Tensor]:
    return {
        name: values.detach().to("cpu", torch.float32).contiguous()
        for name, values in adapter.state_dict().items()
        if not name.endswith(_STEP_COUNTER)
    }


def _empty_adapter(manifest: Manifest) -> Adapter:
    with torch.device("meta"):
        return Adapter(manifest.prompt, manifest.head, manifest.backbone)


def _reset_step_counters(adapter: Adapter) -> None:
    for name, counter in adapter.named_buffers():
        if name.endswith(_STEP_COUNTER):
            counter.zero_()


def _expected_shapes(manifest: Manifest) -> dict[str, list[int]]:
    head = manifest.head
    return {
        **_prompt_shapes(manifest.prompt, manifest.backbone),
        "head.weight": [head.classes, head.in_features],
        "head.bias": [head.classes],
        GOLDEN_LOGITS: [len(manifest.proof.sizes), head.classes],
    }


@lru_cache(maxsize=64)
def _prompt_shapes(prompt: PromptSpec, backbone: BackboneSpec) -> dict[str, list[int]]:
    """Taken from real modules, which takes longer than all the rest of the reading."""
    with torch.device("meta"):
        adapter = Adapter(prompt, head_spec(backbone, classes=1), backbone)
    return {
        name: [*values.shape]
        for name, values in adapter.state_dict().items()
        if name.startswith("prompts.") and not name.endswith(_STEP_COUNTER)
    }


def _parse_manifest(text: str) -> Manifest:
    try:
        check_object_sizes(text, _MOST_NAMES)
        return _Content.model_validate_json(text).content
    except ValidationError as error:
        raise _invalid_manifest(error) from error
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(
            f"The manifest is not valid ({shown(str(error))}). Write the checkpoint again."
        ) from error


def _invalid_manifest(error: ValidationError) -> InvalidManifest | UnsupportedFormatVersion:
    if "format_version" in error.errors(include_input=False)[0]["loc"]:
        return UnsupportedFormatVersion(
            "This release reads checkpoints of format version 1 only. Use the release that wrote "
            "the file, or train the adapter again."
        )
    return InvalidManifest(
        f"The manifest is not valid. {first_error(error)} Write the checkpoint again with "
        "`protuning train`."
    )


def _check_manifest(manifest: Manifest) -> None:
    classes, labels = manifest.head.classes, len(manifest.labels)
    if labels != classes:
        raise LabelCountMismatch(
            f"The head has {classes} classes and the manifest {labels} labels. Write the "
            "checkpoint again with one label for each class."
        )
    if manifest.head.in_features != manifest.backbone.feature_dim:
        raise InvalidManifest(
            f"The head takes {manifest.head.in_features} features and the backbone gives "
            f"{manifest.backbone.feature_dim}. Write the checkpoint again."
        )
    try:
        _prompt_shapes(manifest.prompt, manifest.backbone)
    except InvalidSpec as error:
        raise InvalidManifest(f"The manifest contradicts itself. {error}") from error


def _check_entries(entries: dict[str, TensorEntry], shapes: dict[str, list[int]]) -> None:
    if missing := sorted(shapes.keys() - entries.keys()):
        raise MissingTensor(
            f"The file lacks {len(missing)} tensors, the first is {shown(missing[0])}. Write the "
            "checkpoint again."
        )
    if unexpected := sorted(entries.keys() - shapes.keys()):
        raise UnexpectedTensor(
            f"The file holds {len(unexpected)} tensors that the manifest does not ask for, the "
            f"first is {shown(unexpected[0])}. Write the checkpoint again."
        )
    for name, entry in entries.items():
        if entry.dtype != "F32":
            raise WrongTensorDtype(f"{name} is {shown(entry.dtype)}, not F32. Save it in float32.")
        if entry.shape != shapes[name]:
            raise WrongTensorShape(
                f"{name} has the shape {shown(entry.shape)}; the manifest asks for {shapes[name]}. "
                "Write the checkpoint again."
            )


def _check_tolerance(manifest: Manifest, golden_logits: Tensor) -> None:
    """A tolerance near the logits' own size would let everything pass."""
    scale = max(1.0, golden_logits.abs().max().item())
    tolerance = manifest.proof.tolerance
    if tolerance.float32 > _MOST_FLOAT32 * scale or tolerance.bfloat16 > _MOST_BFLOAT16 * scale:
        raise InvalidManifest(
            "The golden proof's tolerance is so wide that it proves nothing. Train the adapter "
            "again."
        )


def _check_values(tensors: dict[str, Tensor]) -> None:
    # A sum is finite only if everything in it is; one over all is faster than a look at each.
    total = torch.cat([values.flatten() for values in tensors.values()]).sum(dtype=torch.float64)
    if not torch.isfinite(total):
        _name_not_finite(tensors)
    for name, values in tensors.items():
        if name.endswith("running_var") and values.min() < 0:
            raise InvalidTensors(f"{name} holds a negative variance. Train the adapter again.")


def _name_not_finite(tensors: dict[str, Tensor]) -> None:
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            raise NotFinite(
                f"{name} holds a NaN or an infinity: training diverged. Train again with a "
                "smaller learning rate."
            )

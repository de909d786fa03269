"""The identity of a backbone: a sha256 over its canonical weights and its architecture."""

import hashlib
import json
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adapters.manifest import Architecture

_SCHEME = "protuning-backbone-1"


def fingerprint(model: nn.Module, architecture: Architecture) -> str:
    """64 hex characters that change with any weight an adapter could notice, and with nothing else.

    Canonical weights are the model's state in the order of its keys as little-endian float32
    (integers as int64), without timm's classifier, which no adapter sees, and without
    BatchNorm's step counters, which no evaluation sees. The timm name counts without its tag:
    the same weights are the same backbone, wherever they came from.
    """
    digest = hashlib.sha256()
    digest.update(_structure(architecture))
    for name, values in _canonical_weights(model):
        digest.update(f"\n{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def _structure(architecture: Architecture) -> bytes:
    described = architecture.model_dump(
        mode="json", include={"family", "sites", "stage_sites", "feature_dim"}
    )
    described["name"] = architecture.name.partition(".")[0]
    return json.dumps([_SCHEME, described], sort_keys=True).encode()


def _canonical_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    classifier = classifier_keys(model)
    for name, values in sorted(model.state_dict().items()):
        if name.startswith(classifier) or name.endswith("num_batches_tracked"):
            continue
        dtype = torch.float32 if values.is_floating_point() else torch.int64
        yield name, values.detach().to("cpu", dtype).contiguous()


def classifier_keys(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the state keys of timm's own classifier, such as `fc.`."""
    names = model.pretrained_cfg["classifier"]  # type: ignore[index]
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))

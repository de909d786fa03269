"""The tree of errors that adapters, backbones, images and checkpoints can end in.

AdapterError
├── BackboneError
│   ├── UnknownBackbone            the name is not a timm model of a supported family
│   ├── WeightsUnavailable         neither the path nor the hub gave weights
│   └── WeightsMismatch            the weights file does not fit the architecture
├── InvalidSpec                    a prompt configuration that the backbone cannot carry
├── ImageError
│   ├── ImageTooLarge              more bytes or pixels than the limits allow
│   ├── UnsupportedImageFormat     not JPEG, PNG or WebP
│   └── BrokenImage                the format is right, the content cannot be decoded
├── ProofError
│   ├── ProofInsensitive           the golden proof would not notice a wrong pipeline
│   └── ProofFailed                replaying the golden inputs gave other logits
├── CheckpointError
│   ├── CheckpointNotFound         no readable regular file at the path
│   ├── CheckpointTooLarge         the file, or its header, is over the limit
│   ├── NotACheckpoint             not a safetensors file written by protuning
│   │   └── PickleRefused          a pickle or zip archive, which could run code
│   ├── TruncatedCheckpoint        the file ends before its header says
│   ├── InvalidHeader              the safetensors header is malformed
│   ├── DigestMismatch             the bytes are not those that were signed
│   ├── UnsupportedFormatVersion   written by a newer or older format
│   ├── InvalidManifest            the manifest is malformed or contradicts itself
│   │   └── LabelCountMismatch     as many labels as the head has rows, no more, no fewer
│   ├── InvalidTensors
│   │   ├── MissingTensor
│   │   ├── UnexpectedTensor
│   │   ├── WrongTensorDtype
│   │   ├── WrongTensorShape
│   │   └── NotFinite              a NaN or an infinity among the values
│   └── WrongBackbone              made for another backbone than the one at hand
└── StoreError
    ├── StoreUnavailable           blobs or index cannot be reached; try again later
    │   └── StoreFull              no space is left on the store's disk
    ├── UnsupportedStoreUrl        no index is reached by such a URL
    ├── CorruptIndex               the file is damaged, or not an index
    ├── IndexTooNew                a newer release has written the index
    ├── ForeignBlobs               index and blobs hardly belong together: nothing is deleted
    ├── BlobMissing                no blob lies under the digest
    ├── CorruptBlob                the bytes are not the digest's; the blob is in quarantine
    ├── UnknownTask                the tenant has no such task
    ├── UnknownVersion             the task has no such version
    ├── NoActiveVersion            the task has none for this backbone
    ├── VersionNotReady            its proof has not held yet, so it cannot become active
    ├── VersionInUse               it is active, so it cannot be retired
    ├── PointerMoved               somebody else has changed the active version
    └── NothingToRollBackTo        no other version was active before

Every message says what happened and how to mend it.
"""

from pydantic import ValidationError

_SHOWN = 80


def shown(value: object) -> str:
    """Somebody else's text for a message: quoted, without control characters, and cut short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def first_error(error: ValidationError) -> str:
    """What is wrong first in a validated object, and where, as a sentence."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{shown(where)}: {first['msg']}." if where else f"{first['msg']}."


class AdapterError(Exception):
    """Root of everything that `adapters` raises on purpose."""


class BackboneError(AdapterError):
    """A backbone could not be made."""


class UnknownBackbone(BackboneError):
    """The name is not a timm model of a supported family."""


class WeightsUnavailable(BackboneError):
    """No source gave the backbone's weights."""


class WeightsMismatch(BackboneError):
    """A weights file does not fit the architecture."""


class InvalidSpec(AdapterError):
    """A prompt configuration that the backbone cannot carry."""


class ImageError(AdapterError):
    """An image was refused."""


class ImageTooLarge(ImageError):
    """More bytes or pixels than the limits allow."""


class UnsupportedImageFormat(ImageError):
    """Not one of the allowed image formats."""


class BrokenImage(ImageError):
    """The content cannot be decoded."""


class ProofError(AdapterError):
    """The golden proof could not be made or did not hold."""


class ProofInsensitive(ProofError):
    """The golden proof would not notice a wrong pipeline."""


class ProofFailed(ProofError):
    """Replaying the golden inputs gave other logits than training recorded."""


class CheckpointError(AdapterError):
    """A checkpoint was refused."""


class CheckpointNotFound(CheckpointError):
    """There is no readable regular file at the path."""


class CheckpointTooLarge(CheckpointError):
    """The file or its header is over the size limit."""


class NotACheckpoint(CheckpointError):
    """Not a safetensors file written by protuning."""


class PickleRefused(NotACheckpoint):
    """A pickle file or zip archive, which could run code when loaded."""


class TruncatedCheckpoint(CheckpointError):
    """The file ends before its header says."""


class InvalidHeader(CheckpointError):
    """The safetensors header is malformed."""


class DigestMismatch(CheckpointError):
    """The bytes are not those that were signed."""


class UnsupportedFormatVersion(CheckpointError):
    """Written in a format version that this release does not read."""


class InvalidManifest(CheckpointError):
    """The manifest is malformed or contradicts itself."""


class LabelCountMismatch(InvalidManifest):
    """The number of labels is not the number of classes of the head."""


class InvalidTensors(CheckpointError):
    """The tensors are not those that the manifest asks for."""


class MissingTensor(InvalidTensors):
    """A tensor that the manifest asks for is not there."""


class UnexpectedTensor(InvalidTensors):
    """A tensor is there that the manifest does not ask for."""


class WrongTensorDtype(InvalidTensors):
    """A tensor is not float32."""


class WrongTensorShape(InvalidTensors):
    """A tensor has another shape than the manifest asks for."""


class NotFinite(InvalidTensors):
    """A tensor holds a NaN or an infinity."""


class WrongBackbone(CheckpointError):
    """Made for another backbone than the one at hand."""


class StoreError(AdapterError):
    """The store refused or failed."""


class StoreUnavailable(StoreError):
    """Blobs or index cannot be reached; trying again later may help."""


class StoreFull(StoreUnavailable):
    """No space is left on the store's disk."""


class UnsupportedStoreUrl(StoreError):
    """Neither index nor blobs are reached by such a URL."""


class CorruptIndex(StoreError):
    """The index file is damaged, or is not an index."""


class IndexTooNew(StoreError):
    """A newer release has written the index."""


class ForeignBlobs(StoreError):
    """Garbage collection would delete so much that index and blobs hardly belong together."""


class BlobMissing(StoreError):
    """No blob lies under the digest."""


class CorruptBlob(StoreError):
    """A blob's bytes are not the digest's; it is in quarantine."""


class UnknownTask(StoreError):
    """The tenant has no such task."""


class UnknownVersion(StoreError):
    """The task has no such version."""


class NoActiveVersion(StoreError):
    """The task has no active version for this backbone."""


class VersionNotReady(StoreError):
    """The version's proof has not held yet, so it cannot become active."""


class VersionInUse(StoreError):
    """The version is active, so it cannot be retired."""


class PointerMoved(StoreError):
    """Another version is active than the caller believed."""


class NothingToRollBackTo(StoreError):
    """No other version was active before this one."""

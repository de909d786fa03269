"""Tensors of the Open Inference Protocol, between bytes or JSON and arrays. Pure."""

import base64
import binascii
import math
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.errors import BrokenImage
from adapters.manifest import Preprocessing
from service.errors import TooManyImages
from service.http.errors import InvalidRequest
from service.http.oip_schemas import InputTensor, TensorMetadata
from service.predict import Images

LENGTH_BYTES = 4
_KINDS: dict[str, np.dtype[Any]] = {"pixels": np.dtype("u1"), "tensor": np.dtype("<f4")}


def inputs_of(preprocessing: Preprocessing) -> list[TensorMetadata]:
    """The inputs of every task on a backbone; -1 is the number of images."""
    height, width = preprocessing.height, preprocessing.width
    return [
        TensorMetadata(name="image", datatype="BYTES", shape=[-1]),
        TensorMetadata(name="pixels", datatype="UINT8", shape=[-1, height, width, 3]),
        TensorMetadata(name="tensor", datatype="FP32", shape=[-1, 3, height, width]),
    ]


def read_input(
    given: InputTensor, binary: bytes, preprocessing: Preprocessing, max_images: int
) -> list[bytes] | Images:
    """The images of an input: encoded ones, uint8 pixels, or normalised floats.

    `binary` is what follows the JSON of the request.

    Raises:
        InvalidRequest: the data is not what the input says, or the input not one of the task's.
        TooManyImages: over `max_images`.
        BrokenImage: an image is not base64.
    """
    _require_shape(given, preprocessing, max_images)
    _require_one_place(given, binary)
    if given.name == "image":
        return _encoded(given) if given.data is not None else _split(binary, given.shape[0])
    array = _from_binary(given, binary) if given.data is None else _from_json(given)
    if given.name == "tensor":
        _require_normalised(array, preprocessing)
    return array


def _require_shape(given: InputTensor, preprocessing: Preprocessing, max_images: int) -> None:
    wanted = next(tensor for tensor in inputs_of(preprocessing) if tensor.name == given.name)
    if given.datatype != wanted.datatype or given.shape[1:] != wanted.shape[1:]:
        raise InvalidRequest(
            f"The input {given.name!r} is {wanted.datatype} of shape {wanted.shape}, not "
            f"{given.datatype} of shape {given.shape}. Ask for the model's metadata."
        )
    if not given.shape[0]:
        raise InvalidRequest("The input has no image. Send at least one.")
    if given.shape[0] > max_images:
        raise TooManyImages(
            f"The request holds {given.shape[0]} images; at most {max_images} are taken. Send "
            "several requests: they share batches all the same."
        )


def _require_one_place(given: InputTensor, binary: bytes) -> None:
    size = given.parameters.binary_data_size
    if (size is None) == (given.data is None):
        raise InvalidRequest(
            "The images are either in `data` or, by `binary_data_size`, behind the JSON: send "
            "them in one of the two places."
        )
    if len(binary) != (size or 0):
        raise InvalidRequest(
            f"There are {len(binary):,} bytes behind the JSON, and the input counts {size or 0:,}. "
            "Let Inference-Header-Content-Length and binary_data_size say what is sent."
        )


def _split(binary: bytes, count: int) -> list[bytes]:
    """Elements of BYTES, each with its length before it: 4 bytes, little-endian."""
    elements: list[bytes] = []
    start = 0
    while start < len(binary) and len(elements) < count:
        length = int.from_bytes(binary[start : start + LENGTH_BYTES], "little")
        start += LENGTH_BYTES
        elements.append(binary[start : start + length])
        start += length
    if start != len(binary) or len(elements) != count:
        raise InvalidRequest(
            f"The binary data is not {count} elements of BYTES, each with its length in 4 "
            "little-endian bytes before it."
        )
    return elements


def _encoded(given: InputTensor) -> list[bytes]:
    texts = given.data or []
    if len(texts) != given.shape[0] or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(f"`data` is a list of {given.shape[0]} strings of base64.")
    return [_from_base64(text, number, len(texts)) for number, text in enumerate(texts, 1)]


def _from_base64(text: str, number: int, count: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenImage(
            f"Image {number} of {count}: not base64 ({error}). Use the standard alphabet with "
            "padding, or send binary data."
        ) from error


def _from_binary(given: InputTensor, binary: bytes) -> NDArray[Any]:
    kind = _KINDS[given.name]
    wanted = math.prod(given.shape) * kind.itemsize
    if len(binary) != wanted:
        raise InvalidRequest(
            f"A {given.datatype} tensor of shape {given.shape} has {wanted:,} bytes, not "
            f"{len(binary):,}."
        )
    # A copy, which the engine may take as its own, in this machine's byte order.
    return np.frombuffer(binary, kind).astype(kind.newbyteorder("=")).reshape(given.shape)


def _from_json(given: InputTensor) -> NDArray[Any]:
    kind = _KINDS[given.name]
    numbers = _flat(given.data or [], len(given.shape))
    wanted = {int} if kind.kind == "u" else {int, float}
    if len(numbers) != math.prod(given.shape) or not {*map(type, numbers)} <= wanted:
        raise InvalidRequest(
            f"`data` is not the {math.prod(given.shape):,} numbers of a {given.datatype} tensor of "
            f"shape {given.shape}."
        )
    try:
        # What overflows becomes infinite, and is refused as such.
        with np.errstate(over="ignore"):
            return np.array(numbers, kind.newbyteorder("=")).reshape(given.shape)
    except OverflowError as error:
        raise InvalidRequest(f"`data` has numbers that {given.datatype} cannot hold.") from error


def _flat(nested: list[Any], depth: int) -> list[Any]:
    """The elements of lists within lists, row-major, as deep as they may lie."""
    for _ in range(depth - 1):
        if not nested or not all(isinstance(part, list) for part in nested):
            break
        nested = [*chain.from_iterable(nested)]
    return nested


def _require_normalised(array_BCHW: NDArray[np.float32], preprocessing: Preprocessing) -> None:
    """Refuse what no picture can become, such as pixels that were not normalised.

    Half of the range is left on either side for what filters overshoot.
    """
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    lowest, highest = (
        ((edge - mean) / std).reshape(1, 3, 1, 1).astype(np.float32) for edge in (-0.5, 1.5)
    )
    # Not-a-number is in no range.
    if not ((lowest <= array_BCHW) & (array_BCHW <= highest)).all():
        raise InvalidRequest(
            "The tensor has values that no normalised image has. Scale pixels to 0..1, subtract "
            f"{[*preprocessing.mean]} and divide by {[*preprocessing.std]}, by channel in RGB."
        )


def to_binary(values: NDArray[Any]) -> bytes:
    """A tensor as its bytes behind the JSON: float32, or strings with their lengths."""
    if values.dtype.kind == "f":
        return values.astype("<f4").tobytes()
    elements = [text.encode() for text in values.flat]
    return b"".join(len(each).to_bytes(LENGTH_BYTES, "little") + each for each in elements)


def top_classes(scores: NDArray[np.float32], labels: list[list[tuple[int, str]]]) -> NDArray[Any]:
    """For each image its ranked (index, label) pairs as "score:index:label", [n, k] strings."""
    return np.array(
        [
            [f"{row[index]:f}:{index}:{label}" for index, label in ranked]
            for row, ranked in zip(scores, labels, strict=True)
        ],
        dtype=object,
    )

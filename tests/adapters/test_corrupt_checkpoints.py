"""Untrusted checkpoints: every way to be wrong has its own error class, within memory limits."""

import io
import json
import os
import pickle
import random
import struct
import tracemalloc
import zipfile

import pytest
import safetensors.torch
import torch

from adapters.checkpoint import parse, read
from adapters.container import ContainerLimits, sign
from adapters.errors import (
    CheckpointError,
    CheckpointTooLarge,
    DigestMismatch,
    InvalidHeader,
    InvalidManifest,
    InvalidTensors,
    LabelCountMismatch,
    MissingTensor,
    NotACheckpoint,
    NotFinite,
    PickleRefused,
    TruncatedCheckpoint,
    UnexpectedTensor,
    UnsupportedFormatVersion,
    WrongBackbone,
    WrongTensorDtype,
    WrongTensorShape,
)
from tests import makers


@pytest.fixture(scope="module")
def data() -> bytes:
    """A valid checkpoint's bytes."""
    return makers.checkpoint("test_resnet").data


def _split(data: bytes) -> tuple[dict, dict, bytes]:
    """A file as header entries, content and tensor bytes."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    content = json.loads(header.pop("__metadata__")["protuning"])
    return header, content, data[8 + size :]


def _join(header: dict, content: dict, tensors: bytes) -> bytes:
    """A signed file from its parts: what an attacker who knows the format can make."""
    metadata = {"protuning": json.dumps(content, separators=(",", ":"))}
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return sign(struct.pack("<Q", len(text)) + text + tensors)


def test_the_forger_can_write_valid_files(data):
    """The helpers of this file are right: taking apart and joining again gives a valid file."""
    assert parse(_join(*_split(data))).manifest == parse(data).manifest


@pytest.mark.parametrize("percent", range(100))
def test_truncation_anywhere_is_told(data, percent):
    """Cut at every 1 %: truncated, whatever was cut."""
    with pytest.raises(TruncatedCheckpoint):
        parse(data[: len(data) * percent // 100])


def test_trailing_bytes_are_refused(data):
    """A file may not go on after its last tensor, signed or not."""
    with pytest.raises(DigestMismatch):
        parse(data + b"\0")
    with pytest.raises(InvalidHeader):
        parse(sign(data + b"\0" * 8))


def test_no_flipped_bit_gets_through(data):
    """2,000 seeded single-bit flips over the whole file, and every bit of its first 200 bytes."""
    rng = random.Random(7)
    size = int.from_bytes(data[:8], "little")
    flips = [rng.randrange(8 * len(data)) for _ in range(1_000)]
    flips += [rng.randrange(8 * (8 + size)) for _ in range(1_000)]
    for bit in [*flips, *range(8 * 200)]:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError):
            parse(bytes(damaged))


@pytest.mark.parametrize("claim", [2**40, 2**63, 2**64 - 1, 4 * 2**20 + 1])
def test_header_bombs_take_no_memory(data, claim):
    """A header that claims a terabyte is refused by its number, not by trying."""
    bomb = struct.pack("<Q", claim) + data[8:]
    tracemalloc.start()
    with pytest.raises(CheckpointTooLarge, match="header"):
        parse(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_reading_takes_a_bounded_multiple_of_the_limit(data, tmp_path):
    """A huge sparse file costs no more memory than the limit allows, then ends."""
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(data)
        os.truncate(file.fileno(), 2**40)
    limits = ContainerLimits(max_bytes=2**20 + len(data))
    tracemalloc.start()
    with pytest.raises(CheckpointTooLarge):
        read(path, limits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * limits.max_bytes


@pytest.mark.parametrize("depth", [200, 100_000])
def test_deeply_nested_json_is_refused(data, depth):
    """Nesting in the header or in the manifest exhausts no stack."""
    _, content, tensors = _split(data)
    nest = "[" * depth + "]" * depth
    text = json.dumps(content, separators=(",", ":"))
    for metadata, extra in ((text[:-1] + f',"x":{nest}}}', ""), (text, f',"x":{nest}')):
        body = json.dumps({"__metadata__": {"protuning": metadata}}, separators=(",", ":"))
        body = body[:-1] + extra + "}"
        with pytest.raises((InvalidHeader, InvalidManifest, UnexpectedTensor)):
            parse(sign(struct.pack("<Q", len(body)) + body.encode() + tensors))


FORGERIES = {}


def forgery(error):
    """Register a way to forge a signed file, and the error that it must end in."""

    def register(forge):
        FORGERIES[forge.__name__] = (forge, error)
        return forge

    return register


@forgery(MissingTensor)
def missing_tensor(header, content, tensors):
    """The last tensor is gone, data and all."""
    name = max(header, key=lambda entry: header[entry]["data_offsets"])
    begin, _ = header.pop(name)["data_offsets"]
    return header, content, tensors[:begin]


@forgery(UnexpectedTensor)
def extra_tensor(header, content, tensors):
    """One more tensor at the end."""
    header["prompts.stage9.0.conv1.weight"] = {
        "dtype": "F32",
        "shape": [2],
        "data_offsets": [len(tensors), len(tensors) + 8],
    }
    return header, content, tensors + bytes(8)


@forgery(InvalidHeader)
def overlapping_tensors(header, content, tensors):
    """Two tensors of one size share their bytes."""
    by_size = {}
    for name, entry in header.items():
        twin = by_size.setdefault(json.dumps(entry["shape"]), name)
        if twin != name:
            entry["data_offsets"] = header[twin]["data_offsets"]
            return header, content, tensors
    raise AssertionError


@forgery(InvalidHeader)
def hole_between_tensors(header, content, tensors):
    """Eight bytes belong to nobody."""
    for entry in header.values():
        entry["data_offsets"] = [offset + 8 for offset in entry["data_offsets"]]
    return header, content, bytes(8) + tensors


@forgery(InvalidHeader)
def backward_offsets(header, content, tensors):
    """A tensor ends before it begins."""
    entry = header["head.bias"]
    entry["data_offsets"] = entry["data_offsets"][::-1]
    return header, content, tensors


@forgery(InvalidHeader)
def negative_offsets(header, content, tensors):
    """A tensor begins before the file."""
    header["head.bias"]["data_offsets"] = [-16, 0]
    return header, content, tensors


@forgery(TruncatedCheckpoint)
def offsets_beyond_the_end(header, content, tensors):
    """A tensor lies a terabyte behind the end."""
    header["head.bias"]["data_offsets"] = [2**40, 2**40 + 16]
    return header, content, tensors


@forgery(WrongTensorShape)
def wrong_shape(header, content, tensors):
    """As many values in another shape."""
    header["head.weight"]["shape"] = header["head.weight"]["shape"][::-1]
    return header, content, tensors


@forgery(WrongTensorShape)
def overflowing_shape(header, content, tensors):
    """A shape whose size overflows 64 bits."""
    header["head.weight"]["shape"] = [2**62, 2**62]
    return header, content, tensors


@forgery(WrongTensorShape)
def negative_shape(header, content, tensors):
    """Negative sizes whose product is right."""
    header["head.weight"]["shape"] = [-size for size in header["head.weight"]["shape"]]
    return header, content, tensors


@forgery(WrongTensorDtype)
def float16_tensor(header, content, tensors):
    """A tensor of half the precision and twice the values."""
    header["head.weight"]["dtype"] = "F16"
    return header, content, tensors


@forgery(WrongTensorDtype)
def integer_tensor(header, content, tensors):
    """The same bytes as integers."""
    header["head.weight"]["dtype"] = "I32"
    return header, content, tensors


@forgery(WrongTensorDtype)
def unknown_dtype(header, content, tensors):
    """A dtype that does not exist."""
    header["head.weight"]["dtype"] = "F1"
    return header, content, tensors


@forgery(InvalidHeader)
def entry_without_a_shape(header, content, tensors):
    """A field of an entry is missing."""
    del header["head.weight"]["shape"]
    return header, content, tensors


@forgery(InvalidHeader)
def entry_that_is_no_entry(header, content, tensors):
    """A number stands where an entry should."""
    header["head.weight"] = 7
    return header, content, tensors


def _set_first_value(header, tensors, name, value):
    begin, _ = header[name]["data_offsets"]
    return tensors[:begin] + struct.pack("<f", value) + tensors[begin + 4 :]


@forgery(NotFinite)
def nan_value(header, content, tensors):
    """One NaN among the head's weights."""
    return header, content, _set_first_value(header, tensors, "head.weight", float("nan"))


@forgery(NotFinite)
def infinite_value(header, content, tensors):
    """One infinity among a prompt's weights."""
    name = "prompts.stage1.0.conv2.weight"
    return header, content, _set_first_value(header, tensors, name, float("inf"))


@forgery(NotFinite)
def nan_in_the_golden_logits(header, content, tensors):
    """The proof itself holds a NaN."""
    return header, content, _set_first_value(header, tensors, "proof.logits", float("nan"))


@forgery(InvalidTensors)
def negative_variance(header, content, tensors):
    """A variance below zero would fold into NaN."""
    name = "prompts.stage1.0.bn1.running_var"
    return header, content, _set_first_value(header, tensors, name, -1.0)


@forgery(LabelCountMismatch)
def one_label_too_few(header, content, tensors):
    """Three labels for four classes."""
    content["content"]["labels"].pop()
    return header, content, tensors


@forgery(WrongTensorShape)
def one_class_more_than_the_tensors(header, content, tensors):
    """Labels and head agree with each other, not with the tensors."""
    content["content"]["labels"].append("one more")
    content["content"]["head"]["classes"] += 1
    return header, content, tensors


@forgery(InvalidManifest)
def duplicate_labels(header, content, tensors):
    """Two classes of one name."""
    content["content"]["labels"][0] = content["content"]["labels"][1]
    return header, content, tensors


@forgery(UnsupportedFormatVersion)
def newer_format(header, content, tensors):
    """A file from the future."""
    content["content"]["format_version"] = 2
    return header, content, tensors


@forgery(InvalidManifest)
def unknown_field(header, content, tensors):
    """A field that this version does not know."""
    content["content"]["surprise"] = 1
    return header, content, tensors


@forgery(InvalidManifest)
def site_that_is_not_there(header, content, tensors):
    """A prompt at a site that the backbone lacks."""
    content["content"]["prompt"]["placements"][0]["site"] = "stage9"
    return header, content, tensors


@forgery(InvalidManifest)
def million_blocks(header, content, tensors):
    """A prompt that would take all memory to build."""
    content["content"]["prompt"]["placements"][0]["blocks"] = 10**6
    return header, content, tensors


@forgery(InvalidManifest)
def huge_channels(header, content, tensors):
    """A backbone wider than any."""
    content["content"]["backbone"]["sites"][0]["channels"] = 2**40
    return header, content, tensors


@forgery(MissingTensor)
def most_that_the_bounds_allow(header, content, tensors):
    """The largest adapter that a manifest may describe is described without being built."""
    sites = [
        {"name": f"stage{number}", "channels": 16_384, "height": 1, "width": 1}
        for number in range(64)
    ]
    content["content"]["backbone"]["sites"] = sites
    content["content"]["backbone"]["stage_sites"] = [site["name"] for site in sites]
    content["content"]["prompt"]["groups"] = 1
    content["content"]["prompt"]["placements"] = [
        {"site": site["name"], "blocks": 1} for site in sites
    ]
    return header, content, tensors


@forgery(InvalidManifest)
def other_feature_width(header, content, tensors):
    """The head does not fit the backbone's features."""
    content["content"]["backbone"]["feature_dim"] += 1
    return header, content, tensors


@forgery(InvalidManifest)
def infinite_tolerance(header, content, tensors):
    """A proof that would let everything pass."""
    content["content"]["proof"]["tolerance"]["float32"] = float("inf")
    return header, content, tensors


@forgery(InvalidManifest)
def wide_tolerance(header, content, tensors):
    """A finite tolerance that would let everything pass as well."""
    content["content"]["proof"]["tolerance"]["float32"] = 1e30
    return header, content, tensors


@forgery(InvalidManifest)
def no_tolerance(header, content, tensors):
    """A proof without a tolerance proves nothing."""
    content["content"]["proof"]["tolerance"] = {}
    return header, content, tensors


@forgery(InvalidManifest)
def large_golden_images(header, content, tensors):
    """A few bytes that would keep a loader busy for minutes, in gigabytes."""
    content["content"]["proof"]["sizes"] = [[7_000, 7_000]] * 4
    return header, content, tensors


@forgery(InvalidManifest)
def golden_images_that_are_slivers(header, content, tensors):
    """The decoder would refuse one row of pixels, and the proof could never hold."""
    content["content"]["proof"]["sizes"][0] = [1, 200]
    return header, content, tensors


@forgery(InvalidManifest)
def stage_sites_that_are_not_there(header, content, tensors):
    """The default sites must be sites."""
    content["content"]["backbone"]["stage_sites"] = ["stage7"]
    return header, content, tensors


@forgery(InvalidManifest)
def infinity_in_the_provenance(header, content, tensors):
    """JSON has no infinity, wherever it stands."""
    content["content"]["provenance"]["config"] = {"a": [float("inf")]}
    return header, content, tensors


@forgery(InvalidManifest)
def a_method_that_speaks_to_the_terminal(header, content, tensors):
    """Whoever lists versions sees it."""
    content["content"]["provenance"]["method"] = "\x1b[2Jpro-tuning"
    return header, content, tensors


@forgery(InvalidManifest)
def a_metric_that_speaks_to_the_terminal(header, content, tensors):
    """Whoever inspects the checkpoint sees its name."""
    content["content"]["provenance"]["metrics"] = {"\x9b2Jtop1": 1.0}
    return header, content, tensors


@forgery(InvalidManifest)
def no_manifest(header, content, tensors):
    """An empty object instead of the manifest."""
    content["content"] = {}
    return header, content, tensors


@pytest.mark.parametrize("name", FORGERIES)
def test_signed_forgeries_end_in_their_own_error(data, name):
    """Files with a right digest and wrong content: the exact class, and a way to mend it."""
    forge, error = FORGERIES[name]
    with pytest.raises(error) as caught:
        parse(_join(*forge(*_split(data))))
    assert type(caught.value) is error
    assert str(caught.value).endswith(".")


def test_a_name_that_stands_twice_is_refused(data):
    """Two entries of one name could be read differently by two readers."""
    header, content, tensors = _split(data)
    honest = _join(header, content, tensors)
    size = int.from_bytes(honest[:8], "little")
    text = honest[8 : 8 + size].rstrip()
    twice = text[:-1] + b',"head.bias":' + json.dumps(header["head.bias"]).encode() + b"}"
    with pytest.raises(InvalidHeader, match="twice"):
        parse(sign(struct.pack("<Q", len(twice)) + twice + tensors))


def test_a_checkpoint_of_another_backbone_is_refused(data):
    """A re-signed fingerprint is told when the adapter meets the backbone."""
    header, content, tensors = _split(data)
    content["content"]["backbone"]["fingerprint"] = "0" * 64
    forged = parse(_join(header, content, tensors))
    with pytest.raises(WrongBackbone):
        forged.model(makers.backbone("test_resnet"))


@pytest.mark.parametrize(
    ("field", "item"), [("labels", "1,"), ("sites", "{},"), ("stage_sites", "1,"), ("sizes", "1,")]
)
def test_a_million_wrong_items_cost_one_error(data, field, item):
    """Errors are not collected: the first one ends it, in little memory."""
    header, content, tensors = _split(data)
    text = json.dumps(content, separators=(",", ":")).replace(
        f'"{field}":[', f'"{field}":[{item * (900_000 // len(item))}', 1
    )
    body = json.dumps({"__metadata__": {"protuning": text}, **header}, separators=(",", ":"))
    tracemalloc.start()
    with pytest.raises(InvalidManifest) as caught:
        parse(sign(struct.pack("<Q", len(body)) + body.encode() + tensors))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000_000
    assert len(str(caught.value)) < 1_000


def test_a_million_wrong_entries_cost_one_error(data):
    """The same for the header's own entries, and for names in the manifest."""
    _, content, tensors = _split(data)
    text = json.dumps(content, separators=(",", ":"))
    entries = {str(number): {} for number in range(80_000)}
    body = json.dumps({"__metadata__": {"protuning": text}, **entries}, separators=(",", ":"))
    with pytest.raises(InvalidHeader):
        parse(sign(struct.pack("<Q", len(body)) + body.encode() + tensors))
    content["content"]["provenance"]["metrics"] = {str(n): 1.0 for n in range(300)}
    with pytest.raises(InvalidManifest, match="256 names"):
        parse(_join(*_split(data)[:1], content, tensors))


@pytest.mark.parametrize(
    "name", ["keys", "pop", "forward", "training", "stage", "embed2", "x" * 99]
)
def test_site_names_are_names_of_sites(data, name):
    """A site cannot take the name of something that modules have already."""
    header, content, tensors = _split(data)
    text = json.dumps(content).replace("stage1", name)
    renamed = {entry.replace("stage1", name): value for entry, value in header.items()}
    with pytest.raises(InvalidManifest):
        parse(_join(renamed, json.loads(text), tensors))


def test_messages_cut_what_the_file_says(data):
    """A name of a million characters, or with control characters, does not reach a terminal."""
    header, content, tensors = _split(data)
    header["head.bias"]["dtype"] = "\x1b[31m" + "A" * 500_000
    with pytest.raises(WrongTensorDtype) as caught:
        parse(_join(header, content, tensors))
    assert len(str(caught.value)) < 300
    assert "\x1b" not in str(caught.value)


def _torch_save(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [_torch_save(legacy=True), _torch_save(legacy=False), _zip(), pickle.dumps([1] * 100)],
    ids=["torch legacy", "torch zip", "zip", "pickle"],
)
def test_pickles_are_refused_unread(content, tmp_path):
    """Pickle and zip files, renamed to .safetensors, are named for what they are."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    with pytest.raises(PickleRefused, match="run code"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        makers.encode(makers.picture()),
        b"{}" * 100,
        b"\0" * 1_000,
        safetensors.torch.save({"a": torch.zeros(2)}),
        safetensors.torch.save({"a": torch.zeros(2)}, {"protuning": "1"}),
    ],
    ids=["png", "json", "zeros", "foreign safetensors", "foreign metadata"],
)
def test_other_files_are_not_checkpoints(content):
    """Files of other kinds are told from damaged checkpoints."""
    with pytest.raises(NotACheckpoint):
        parse(content)


def test_nothing_is_truncated():
    """An empty file is a checkpoint that was cut at 0 %."""
    with pytest.raises(TruncatedCheckpoint):
        parse(b"")

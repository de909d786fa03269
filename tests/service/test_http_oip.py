"""The Open Inference Protocol's bodies: what is refused, in its own error shape, and bounded."""

import asyncio
import json
import threading

import numpy as np
import pytest

from service.errors import EngineFailed, Overloaded
from service.http import oip_body
from tests import makers
from tests.service import http_fakes

pytestmark = pytest.mark.anyio
INFER = "/v2/models/flowers/infer"
IMAGE = makers.encode(makers.picture())


@pytest.fixture
def behind():
    """What stands behind the routes: a task whose images have 8 x 8 pixels."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
async def client(behind):
    """A client of them."""
    async with http_fakes.client(behind) as client:
        yield client


def image(**changes):
    """An input of one encoded image, of which the data follows."""
    return {
        "name": "image", "datatype": "BYTES", "shape": [1],
        "parameters": {"binary_data_size": len(IMAGE) + 4}, **changes,
    }  # fmt: skip


def numbers(name, datatype, shape, data, **more):
    """An input with its data in JSON."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


async def infer(client, inputs, binary=b"", **request):
    """Ask, with binary data behind the JSON."""
    text = json.dumps({"inputs": inputs, **request}).encode()
    headers = {"inference-header-content-length": str(len(text))} if binary else {}
    return await client.post(INFER, content=text + binary, headers=headers)


def counted(*elements):
    """Elements of BYTES with their lengths."""
    return b"".join(len(each).to_bytes(4, "little") + each for each in elements)


async def test_pixels_reach_the_use_case_as_they_were_sent(client, behind):
    """Binary and JSON, flat and nested; the timeout is in microseconds."""
    pixels = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    shape = [2, 8, 8, 3]
    size = {"parameters": {"binary_data_size": pixels.nbytes}}
    given = {"name": "pixels", "datatype": "UINT8", "shape": shape}
    answers = [
        await infer(client, [given | size], pixels.tobytes()),
        await infer(client, [given | {"data": pixels.tolist()}]),
        await infer(
            client, [given | {"data": pixels.ravel().tolist()}], parameters={"timeout": 1_000_000}
        ),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    for asked in behind.predictor.asked:
        np.testing.assert_array_equal(asked["images"], pixels)
        asked["images"][0] = 0  # it is the engine's own
    first, _, last = behind.predictor.asked
    assert last["deadline"] < first["deadline"] - 3


async def test_an_answer_without_binary_is_json(client):
    """Exactly the protocol's fields, and the phases in a header."""
    data = [0] * (8 * 8 * 3)
    answer = await infer(client, [numbers("pixels", "UINT8", [1, 8, 8, 3], data)], id="i")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["server-timing"].startswith("decode;dur=0.000, load;dur=1.000, queue;")
    assert answer.json() == {
        "model_name": "flowers",
        "model_version": "3",
        "id": "i",
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [1, 1], "data": [score]}
            for name, score in (("probabilities", 1.0), ("logits", 0.0))
        ],
    }


@pytest.mark.parametrize(
    ("inputs", "binary"),
    [
        ([], b""),
        ([image(), image()], counted(IMAGE)),
        ([image(name="pixels")], counted(IMAGE)),
        ([image(name="other")], counted(IMAGE)),
        ([image(shape=[])], counted(IMAGE)),
        ([image(shape=[1, 1])], counted(IMAGE)),
        ([image(shape=[0])], counted(IMAGE)),
        ([image(shape=[-1])], counted(IMAGE)),
        ([image(shape=[2])], counted(IMAGE)),
        ([image(shape=[1.0])], counted(IMAGE)),
        ([image(shape=[1] * 9)], counted(IMAGE)),
        ([image(data=["aGk="])], counted(IMAGE)),
        ([image(parameters={})], counted(IMAGE)),
        ([image(parameters={"binary_data_size": -1})], counted(IMAGE)),
        ([image(parameters={"binary_data_size": True})], counted(IMAGE)),
        ([image()], counted(IMAGE) + b"more"),
        ([image()], counted(IMAGE)[:-1]),
        ([image()], b"\xff\xff\xff\xff" + IMAGE),
        ([image()], (len(IMAGE) - 4).to_bytes(4, "little") + IMAGE),
        ([image(parameters={"shared_memory_region": "r"})], b""),
        ([numbers("image", "BYTES", [1], ["not base64!"])], b""),
        ([numbers("image", "BYTES", [1], ["\u00e9"])], b""),
        ([numbers("image", "BYTES", [1], [7])], b""),
        ([numbers("image", "BYTES", [1], ["aGk=", "aGk="])], b""),
        ([numbers("image", "BYTES", [1], "aGk=")], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], [1] * 191)], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], [256] * 192)], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], [-1] * 192)], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], [10**30] * 192)], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], [0.5] * 192)], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], [True] * 192)], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], ["1"] * 192)], b""),
        ([numbers("pixels", "UINT8", [1, 8, 8, 3], [[1]] + [1] * 191)], b""),
        ([numbers("pixels", "UINT8", [1, 3, 8, 8], [1] * 192)], b""),
        ([numbers("pixels", "FP32", [1, 8, 8, 3], [1] * 192)], b""),
        ([numbers("tensor", "FP32", [1, 3, 8, 8], [255] * 192)], b""),
        ([numbers("tensor", "FP32", [1, 3, 8, 8], [float("nan")] * 192)], b""),
        ([numbers("tensor", "FP32", [1, 3, 8, 8], [float("inf")] * 192)], b""),
        ([numbers("tensor", "FP32", [1, 3, 8, 8], [1e300] * 192)], b""),
        ([numbers("tensor", "FP32", [1, 3, 8, 8], [10**400] * 192)], b""),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_what_the_protocol_does_not_allow_is_422(client, behind, inputs, binary):
    """One sentence in `error`, short, and nothing was run."""
    answer = await infer(client, inputs, binary)
    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}
    assert len(answer.content) < 1_000
    assert behind.predictor.asked == []


@pytest.mark.parametrize(
    "request_fields",
    [
        {"outputs": [{"name": "logits"}, {"name": "logits"}]},
        {"outputs": [{"name": "other"}]},
        {"outputs": [{"name": "logits", "parameters": {"classification": 0}}]},
        {"outputs": [{"name": "logits", "parameters": {"classification": "3"}}]},
        {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]},
        {"parameters": {"timeout": 0}},
        {"parameters": {"timeout": 20_000_001}},
        {"parameters": {"sequence_id": 1, "sequence_start": True}},
        {"id": "i" * 257},
        {"id": 1},
    ],
    ids=repr,
)
async def test_what_is_not_offered_is_422(client, behind, request_fields):
    """Outputs, parameters and ids that could not be kept to."""
    answer = await infer(client, [image()], counted(IMAGE), **request_fields)
    assert answer.status_code == 422
    assert behind.predictor.asked == []


# Neither is converted: Python refuses over 4,300 digits with an error of its own.
LONG = "9" * 5_000
PADDED = "0" * 20 + "9" * 4_400


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "\u0661", "1000000", "2", LONG, PADDED])
async def test_a_wrong_header_length_is_422(client, length):
    """It is a number, within the body, and where the JSON ends."""
    text = json.dumps({"inputs": [image()]}).encode() + counted(IMAGE)
    headers = {"inference-header-content-length": length.encode("utf-8")}
    answer = await client.post(INFER, content=text, headers=headers)
    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"inputs":' + b"[" * 100_000],
    ids=lambda body: repr(body[:20]),
)
async def test_what_is_not_such_json_is_422(client, body):
    """Also what is there to exhaust a parser."""
    answer = await client.post(INFER, content=body)
    assert answer.status_code == 422


async def test_json_values_are_counted_before_they_are_parsed(client, monkeypatch):
    """Two million are a tensor to send as binary data."""
    monkeypatch.setattr(oip_body, "MAX_JSON_VALUES", 50)
    answer = await infer(client, [numbers("pixels", "UINT8", [1, 8, 8, 3], [0] * 192)])
    assert answer.status_code == 413
    assert "binary" in answer.json()["error"]


async def test_long_json_is_parsed_two_at_a_time(client, monkeypatch):
    """A flood of it is bounded in memory, and holds up nobody whose JSON is short."""
    entered, may_end = [], threading.Event()
    parse = oip_body.parse_json

    def watched(data, model):
        if len(data) > oip_body.LONG_JSON:
            entered.append(data)
            may_end.wait()
        return parse(data, model)

    monkeypatch.setattr(oip_body, "parse_json", watched)
    monkeypatch.setattr(oip_body, "LONG_JSON", 500)
    long = [numbers("pixels", "UINT8", [1, 8, 8, 3], [200] * 192)]
    flood = [asyncio.ensure_future(infer(client, long)) for _ in range(5)]
    while len(entered) < 2:
        await asyncio.sleep(0)
    answer = await infer(client, [image()], counted(IMAGE))
    assert (answer.status_code, len(entered)) == (200, 2)
    may_end.set()
    assert [each.status_code for each in await asyncio.gather(*flood)] == [200] * 5
    assert len(entered) == 5


async def test_too_many_images_are_413(client):
    """Counted by the shape, in every form, before anything of their size is made."""
    for inputs in ([image(shape=[9])], [numbers("pixels", "UINT8", [2**31 - 1, 8, 8, 3], [])]):
        answer = await infer(client, inputs, counted(IMAGE) if "parameters" in inputs[0] else b"")
        assert answer.status_code == 413


async def test_a_bad_image_is_named(client, behind):
    """Image 2 of 3 is the bad one."""
    binary = counted(IMAGE, b"%PDF-1.7", IMAGE)
    given = image(shape=[3], parameters={"binary_data_size": len(binary)})
    answer = await infer(client, [given], binary)
    assert answer.status_code == 415
    assert answer.json()["error"].startswith("Image 2 of 3: ")
    assert behind.predictor.asked == []


async def test_errors_of_use_cases_framework_and_limits_have_one_shape(client, behind):
    """404, 405, 414, 415, 422, 500 and 503: `error`, and the request's id in the header."""
    behind.predictor.error = EngineFailed("The engine raised. Try again.")
    answers = [
        await client.get("/v2/models/flowers"),
        await client.get("/v2/nothing"),
        await client.get(INFER),
        await client.get("/v2/models/NO"),
        await client.post(INFER + "?x=" + "x" * 9_000),
        await client.post(INFER, content=b"", headers={"content-encoding": "gzip"}),
        await infer(client, [image()], counted(IMAGE)),
    ]
    behind.predictor.error = Overloaded("Full. Try later.", retry_after=3)
    answers.append(await infer(client, [image()], counted(IMAGE)))
    assert [each.status_code for each in answers] == [404, 404, 405, 422, 414, 415, 500, 503]
    for answer in answers:
        assert answer.headers["content-type"] == "application/json"
        assert answer.json().keys() == {"error"}
        assert answer.headers["x-request-id"]
    assert answers[-1].headers["retry-after"] == "3"


async def test_the_index_shows_what_is_in_the_engine(client, behind):
    """All tasks, or with `ready` those in the engine; a bad body is refused."""
    for task in ("flowers", "birds"):
        await behind.manager.register(http_fakes.TaskKey(task=task), b"")
    await client.post("/v2/repository/models/birds/load")
    everything = (await client.post("/v2/repository/index")).json()
    assert [(each["name"], each["state"]) for each in everything] == [
        ("birds", "READY"),
        ("flowers", "UNAVAILABLE"),
    ]
    ready = (await client.post("/v2/repository/index", json={"ready": True})).json()
    assert [each["name"] for each in ready] == ["birds"]
    assert (await client.post("/v2/repository/index", content=b"{")).status_code == 422
    assert (await client.post("/v2/repository/index", content=bytes(2**17))).status_code == 413


async def test_only_managers_load_and_unload():
    """Whoever may only predict can look and infer, and whoever has no key can do nothing."""
    with http_fakes.services(keys=http_fakes.policy_fakes.key_ring(required=True)) as behind:
        _, token = await behind.keys.create("default", frozenset({"predict"}))
        await behind.manager.register(http_fakes.TaskKey(task="flowers"), b"")
        key = {"authorization": f"Bearer {token}"}
        async with http_fakes.client(behind) as client:
            for path in ("load", "unload"):
                answer = await client.post(f"/v2/repository/models/flowers/{path}", headers=key)
                assert answer.status_code == 403
            assert (await client.post("/v2/repository/index", headers=key)).status_code == 200
            assert (await client.get("/v2/models/flowers", headers=key)).status_code == 200
            for method, path in (
                ("GET", "/v2/models/flowers"),
                ("GET", "/v2/models/flowers/ready"),
                ("POST", INFER),
                ("POST", "/v2/repository/index"),
            ):
                assert (await client.request(method, path)).status_code == 401
            assert (await client.get("/v2")).status_code == 200


async def test_whoever_asks_for_all_classes_need_not_know_their_number(client, behind):
    """As many as a task can have are asked for, so that one image is never too much."""
    outputs = [{"name": "logits", "parameters": {"classification": 2**31 - 1}}]
    inputs = [numbers("pixels", "UINT8", [1, 8, 8, 3], [1] * 192)]
    assert (await infer(client, inputs, outputs=outputs)).status_code == 200
    assert behind.predictor.asked[-1]["top_k"] == 10_000

"""The routes that predict: every form of a body, every parameter, and what is wrong with them."""

import asyncio
import base64
import json
import re
import threading
import time

import pytest
from PIL import Image

from service.errors import EngineFailed
from tests import makers
from tests.service import http_fakes

pytestmark = pytest.mark.anyio

DARK, BRIGHT = (Image.new("RGB", (9, 9), (value,) * 3) for value in (10, 200))
PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}


@pytest.fixture
def behind():
    """Everything behind the routes."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
async def client(behind):
    """A client in this process."""
    async with http_fakes.client(behind) as client:
        yield client


def _form(*images):
    return [("images", (f"{number}", data)) for number, data in enumerate(images)]


def _json(*images):
    return {"images": [base64.b64encode(data).decode() for data in images]}


def _seen(prediction):
    return [each["labels"][0]["label"] for each in prediction["predictions"]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_a_raw_body_is_one_image(client, kind):
    """Each format under its own content type."""
    body = makers.encode(DARK, kind)
    answer = await client.post(
        "/tasks/flowers/predict", content=body, headers={"content-type": f"image/{kind.lower()}"}
    )
    assert answer.status_code == 200
    assert _seen(answer.json()) == ["10"]


async def test_the_answer_has_the_documented_shape(client):
    """Exactly the fields that clients rely on."""
    answer = await client.post("/tasks/flowers/predict", content=makers.encode(DARK), headers=PNG)
    body = answer.json()
    assert body.pop("timing").keys() == {
        "decode_ms", "load_ms", "queue_ms", "compute_ms", "batch_images", "batch_tasks",
    }  # fmt: skip
    assert body == {
        "task": "flowers",
        "version": 3,
        "predictions": [{"labels": [{"label": "10", "index": 0, "score": 1.0}]}],
    }


async def test_forms_and_json_hold_several_images_in_order(client):
    """The same images in either form give the same answer."""
    images = [makers.encode(image) for image in (DARK, BRIGHT, DARK)]
    by_form = await client.post("/tasks/flowers/predict", files=_form(*images))
    by_json = await client.post("/tasks/flowers/predict", json=_json(*images))
    assert by_form.status_code == by_json.status_code == 200
    assert _seen(by_form.json()) == _seen(by_json.json()) == ["10", "200", "10"]


async def test_parameters_reach_the_use_case(client, behind):
    """top_k, version, priority and the deadline, the default ones too."""
    body = makers.encode(DARK)
    before = time.monotonic()
    query = "top_k=2&version=7&timeout_ms=20000&priority=-2"
    await client.post(f"/tasks/flowers/predict?{query}", content=body, headers=PNG)
    await client.post("/tasks/flowers/predict", content=body, headers=PNG)
    after = time.monotonic()
    given, default = behind.predictor.asked
    assert (given["tenant"], given["task"]) == ("default", "flowers")
    assert (given["top_k"], given["version"], given["priority"]) == (2, 7, -2)
    assert (default["top_k"], default["version"], default["priority"]) == (5, None, 0)
    assert before + 20 <= given["deadline"] <= after + 20
    assert before + 5 <= default["deadline"] <= after + 5


async def test_many_tasks_see_the_same_images(client, behind):
    """One request, one decoding, an answer for each task in the order that was asked for."""
    answer = await client.post(
        "/predict?tasks=flowers,birds&priority=3", files=_form(makers.encode(DARK))
    )
    assert [each["task"] for each in answer.json()["results"]] == ["flowers", "birds"]
    assert [_seen(each) for each in answer.json()["results"]] == [["10"], ["10"]]
    assert {asked["tenant"] for asked in behind.predictor.asked} == {"default"}
    assert {asked["priority"] for asked in behind.predictor.asked} == {3}


@pytest.mark.parametrize(
    "query",
    [
        "tasks=",
        "tasks=a,,b",
        "tasks=a,a",
        "tasks=a,%20b",
        "tasks=" + ",".join(f"t{number}" for number in range(65)),
        "",
        "tasks=flowers&top_k=0",
        "tasks=flowers&timeout_ms=20001",
        "tasks=flowers&timeout_ms=-1",
        "tasks=flowers&priority=4",
        "tasks=flowers&priority=-4",
        "tasks=flowers&priority=high",
    ],
)
async def test_wrong_parameters_are_422(client, query):
    """Nothing is guessed, nothing is run."""
    answer = await client.post(f"/predict?{query}", files=_form(makers.encode(DARK)))
    assert answer.status_code == 422
    assert answer.json()["type"].endswith(":invalid-request")


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (makers.encode(makers.picture())[:200], 422),
        (b"%PDF-1.7", 415),
        (makers.encode(Image.new("1", (1001, 1000))), 413),
        (bytes(2**20 + 1), 413),
    ],
    ids=["truncated", "pdf", "pixels", "bytes"],
)
@pytest.mark.parametrize("pack", [_form, _json], ids=["form", "json"])
async def test_a_bad_image_is_named(client, behind, bad, status, pack):
    """Image 2 of 3 is the bad one, whatever the form, and nothing was run."""
    good = makers.encode(DARK)
    packed = pack(good, bad, good)
    body = {"files": packed} if pack is _form else {"json": packed}
    answer = await client.post("/tasks/flowers/predict", **body)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith("Image 2 of 3: ")
    assert behind.predictor.asked == []


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "image/gif", None])
async def test_other_content_types_are_415(client, kind):
    """The answer says what is taken."""
    headers = {} if kind is None else {"content-type": kind}
    answer = await client.post(
        "/tasks/flowers/predict", content=makers.encode(DARK), headers=headers
    )
    assert answer.status_code == 415
    assert "image/webp" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b'{"images": []}'),
        ("application/json", b'{"images": "aGk="}'),
        ("application/json", b'{"images": [1]}'),
        ("application/json", b'{"images": [], "more": 1}'),
        ("application/json", b'{"images": ["' + b"\xff" + b'"]}'),
        ("application/json", b'{"images": ["not base64!"]}'),
        ("application/json", b'{"images": ["\xc3\xa9"]}'),
        ("application/json", b"[" * 1_000_000),
        ("application/json", b'{"images":' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=b", b"something else"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\ncontent-disposition: form-data\r\n\r\nx"),
        ("multipart/form-data; boundary=" + "b" * 300, b""),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"a: b\r\n" * 20 + b"\r\n\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\na: " + b"b" * 9_000 + b"\r\n\r\n--b--\r\n"),
        ("image/png", b""),
    ],
    ids=lambda value: str(value[:30]),
)
async def test_malformed_bodies_are_422(client, kind, body):
    """Structure that is wrong, missing, or there to exhaust a parser."""
    answer = await client.post(
        "/tasks/flowers/predict", content=body, headers={"content-type": kind}
    )
    assert answer.status_code == 422
    assert len(answer.content) < 2_000


async def test_a_field_by_another_name_is_refused(client):
    """The answer says how the field is called."""
    answer = await client.post(
        "/tasks/flowers/predict", files=[("image", ("1", makers.encode(DARK)))]
    )
    assert answer.status_code == 422
    assert "'images'" in answer.json()["detail"]


@pytest.mark.parametrize("count", [9, 1_000])
async def test_too_many_images_are_413(client, count):
    """One more than the limit, and very many more, in either form."""
    images = [makers.encode(DARK)] * count
    for body in ({"files": _form(*images)}, {"json": _json(*images)}):
        answer = await client.post("/tasks/flowers/predict", **body)
        assert answer.status_code == 413
        assert answer.json()["type"].endswith(":too-many-images")


async def test_ten_million_tiny_values_are_not_parsed(client):
    """JSON that would take a hundred times its size in memory is refused by counting."""
    body = b'{"images":[' + b'"",' * 1_000_000 + b'""]}'
    answer = await client.post(
        "/tasks/flowers/predict", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


async def test_long_answers_are_written_alike(client, monkeypatch):
    """Off the event loop the answer is the same, for one task and for several."""
    content = makers.encode(DARK)
    for path in ("/tasks/flowers/predict", "/predict?tasks=flowers,birds"):
        texts = []
        for many in (10_000, 0):
            monkeypatch.setattr("service.predict.MANY_LABELS", many)
            answer = await client.post(path, content=content, headers=PNG)
            assert answer.headers["content-type"] == "application/json"
            texts.append(re.sub(r'"decode_ms":[^,]*', "", answer.text))
        assert texts[0] == texts[1]


async def test_errors_of_the_use_case_reach_the_client(client, behind):
    """An unknown task is 404, a broken engine 500, each with its own type."""
    body = {"content": makers.encode(DARK), "headers": PNG}
    answer = await client.post("/tasks/stones/predict", **body)
    assert answer.status_code == 404
    behind.predictor.error = EngineFailed("The engine raised. Try again.")
    answer = await client.post("/tasks/flowers/predict", **body)
    assert answer.status_code == 500
    assert answer.json()["type"].endswith(":engine-failed")


async def test_openapi_describes_every_form(client):
    """The document at /openapi.json names the content types and the answer's schema."""
    document = (await client.get("/openapi.json")).json()
    post = document["paths"]["/tasks/{task}/predict"]["post"]
    assert post["requestBody"]["content"].keys() == {
        "image/jpeg", "image/png", "image/webp", "multipart/form-data", "application/json",
    }  # fmt: skip
    assert "/predict" in document["paths"]
    assert json.dumps(post["responses"]["200"]).endswith('Prediction"}}}}')


def test_a_client_that_leaves_has_its_work_cancelled(behind):
    """Over a real connection: it closes, and the prediction stops waiting."""
    behind.predictor.gate = threading.Event()
    body = makers.encode(DARK)
    head = (
        b"POST /tasks/flowers/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with http_fakes.live(behind) as server:
        with http_fakes.connect(server) as connection:
            connection.sendall(head + body)
            assert behind.predictor.waiting.wait(20)
        assert behind.predictor.cancelled.wait(20)


async def test_a_poison_image_leaves_its_neighbours_alone(client):
    """Requests decoded beside broken ones answer as they do alone."""
    whole = makers.encode(DARK, "JPEG")
    bodies = [whole, whole[: len(whole) // 2], whole, b"no image", whole]
    answers = await asyncio.gather(
        *(client.post("/tasks/flowers/predict", content=body, headers=JPEG) for body in bodies)
    )
    assert [answer.status_code for answer in answers] == [200, 422, 200, 415, 200]
    assert all(_seen(answer.json()) == ["10"] for answer in answers[::2])

"""The whole server in a process of its own: the commands, real predictions, hostile input, exit."""

import asyncio
import json

import httpx
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from adapters.preprocess import EvalTransform, decode
from adapters.store.index import TaskKey
from service.bootstrap import open_services
from service.cli import app
from service.settings import Settings
from tests import makers
from tests.server_processes import ServerProcess
from tests.service.test_http_hostile import HOSTILE_IMAGES

BACKBONE = "test_resnet"
PICTURES = [makers.encode(makers.picture(90, 120, seed), "JPEG") for seed in range(3)]
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The backbone that the makers' adapters were made for, as a file."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(makers.backbone(BACKBONE).model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory, weights):
    """A server that must end with exit code 0 when it is asked to."""
    directory = tmp_path_factory.mktemp("server")
    index, store = f"sqlite:///{directory}/index.db", directory / "store"
    server = ServerProcess(backbone=BACKBONE, weights=weights, index=index, store=store)
    try:
        yield server
    finally:
        code = server.stop()
    assert code == 0, server.log
    last = [json.loads(line)["event"] for line in server.log[-2:]]
    assert last == ["stopping", "stopped"]


@pytest.fixture
def files(tmp_path):
    """A checkpoint and some pictures as files."""
    checkpoint = tmp_path / "adapter.safetensors"
    checkpoint.write_bytes(makers.checkpoint(BACKBONE).data)
    pictures = [tmp_path / f"{number}.jpg" for number in range(len(PICTURES))]
    for path, data in zip(pictures, PICTURES, strict=True):
        path.write_bytes(data)
    return checkpoint, pictures


def _run(server, *arguments):
    """The output of a command against the server."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--url", server.address])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def _expected(checkpoint):
    """The probabilities that training's own model gives the pictures."""
    backbone = makers.backbone(BACKBONE)
    transform = EvalTransform(backbone.spec.preprocessing)
    pixels = torch.stack([torch.from_numpy(transform(decode(data))) for data in PICTURES])
    return checkpoint.model(backbone).predict(pixels).softmax(dim=1)


def test_register_while_it_runs_and_predict(server, files):
    """The commands, from registration to the probabilities of training's own model."""
    checkpoint, pictures = files
    version = json.loads(_run(server, "register", "flowers", checkpoint, "--json"))
    assert (version["version"], version["state"]) == (1, "ready")
    assert version["digest"] == makers.checkpoint(BACKBONE).digest
    answer = json.loads(_run(server, "predict", "flowers", *pictures, "--top-k", 4, "--json"))
    wanted = _expected(makers.checkpoint(BACKBONE))
    for prediction, row in zip(answer["predictions"], wanted, strict=True):
        assert len(prediction["labels"]) == 4
        assert prediction["labels"][0]["index"] == row.argmax()
        for label in prediction["labels"]:
            assert label["score"] == pytest.approx(row[label["index"]].item(), abs=1e-4)
            assert label["label"] == f"class {label['index']}"
    assert "class" in _run(server, "predict", "flowers", pictures[0])


def test_register_says_what_has_come_of_it(server, files, tmp_path):
    """A new version or the same bytes again; served, or how to have it served."""
    other = tmp_path / "other.safetensors"
    other.write_bytes(makers.checkpoint(BACKBONE, classes=3, seed=1).data)
    first = _run(server, "register", "words", files[0])
    assert "This is new: version 1 of words. It is served now (active)." in first
    held = _run(server, "register", "words", other, "--no-activate")
    assert "This is new: version 2 of words. It is not served" in held
    assert "protuning tasks activate words 2" in held
    again = _run(server, "register", "words", other)
    assert "These bytes are version 2 of words already" in again
    assert "It is served now (active); protuning tasks rollback words brings" in again


def test_the_task_commands(server, files, tmp_path):
    """List, show, versions, rollback, delete: for people and for programs."""
    checkpoint, _ = files
    other = tmp_path / "other.safetensors"
    other.write_bytes(makers.checkpoint(BACKBONE, classes=3, seed=1).data)
    _run(server, "register", "birds", checkpoint)
    _run(server, "register", "birds", other)
    assert "birds" in [each["task"] for each in json.loads(_run(server, "tasks", "list", "--json"))]
    assert "birds" in _run(server, "tasks", "list")
    assert json.loads(_run(server, "tasks", "show", "birds", "--json"))["active_version"] == 2
    versions = json.loads(_run(server, "tasks", "versions", "birds", "--json"))
    assert [each["version"] for each in versions] == [1, 2]
    assert json.loads(_run(server, "tasks", "rollback", "birds", "--json"))["version"] == 1
    _run(server, "tasks", "delete", "birds")
    refused = CliRunner().invoke(app, ["tasks", "show", "birds", "--url", server.address])
    assert refused.exit_code != 0


def test_a_refused_checkpoint_changes_nothing(server):
    """A damaged file, and one for other weights: the named cause, and no task."""
    damaged = bytearray(makers.checkpoint(BACKBONE).data)
    damaged[-1] ^= 1
    with httpx.Client(base_url=server.address, timeout=60) as client:
        for data, kind in {
            bytes(damaged): "digest-mismatch",
            makers.checkpoint("test_vit").data: "wrong-backbone",
            b"PK\x03\x04" + bytes(100): "pickle-refused",
        }.items():
            files = [("task_id", (None, "stones")), ("checkpoint", ("a", data))]
            answer = client.post("/tasks", files=files)
            assert answer.json()["type"].endswith(f":{kind}")
        assert client.get("/tasks/stones").status_code == 404


def test_hostile_bodies_cost_bounded_memory(server, files):
    """With the default limits, several times over: the right 4xx, no more memory than one body."""
    _run(server, "register", "flowers", files[0])
    block = bytes(MEBIBYTE)
    nested = b"[" * 1_000_000
    tiny = b'{"images":[' + b'"",' * 5_000_000 + b'""]}'
    png, json_type = {"content-type": "image/png"}, {"content-type": "application/json"}
    with httpx.Client(base_url=server.address, timeout=120) as client:

        def status(content, headers):
            return client.post("/tasks/flowers/predict", content=content, headers=headers)

        assert status(PICTURES[0], png).status_code == 200
        before = server.peak_memory()
        for _ in range(3):
            assert status((block for _ in range(80)), png).status_code == 413
            assert status(bytes(17 * MEBIBYTE), png).status_code == 413
            assert status(nested, json_type).status_code == 422
            assert status(tiny, json_type).status_code == 413
            many = client.post(
                "/tasks/flowers/predict",
                files=[("images", ("1", PICTURES[0])) for _ in range(1_000)],
            )
            assert many.status_code == 413
            assert status(PICTURES[0], {"content-type": "text/html"}).status_code == 415
            for name, (image, wanted) in HOSTILE_IMAGES.items():
                assert status(image, png).status_code == wanted, name
        assert status(PICTURES[0], png).status_code == 200
        assert server.peak_memory() - before < 160 * MEBIBYTE


def test_what_was_registered_outlives_the_process(weights, files, tmp_path):
    """Another server on the same store serves it without being told."""
    settings = Settings(
        backbone=BACKBONE,
        weights=str(weights),
        device="cpu",
        index=f"sqlite:///{tmp_path}/index.db",
        store=str(tmp_path / "store"),
        adapter_memory_bytes=64 * MEBIBYTE,
        batch_images=8,
    )

    async def register():
        async with open_services(settings) as services:
            await services.manager.register(TaskKey(task="kept"), files[0].read_bytes())

    async def predict():
        async with open_services(settings) as services:
            deadline = asyncio.get_running_loop().time() + 60
            pixels = await services.images.read("default", PICTURES, deadline)
            return await services.predictor.predict("default", "kept", pixels, deadline=deadline)

    asyncio.run(register())
    answer = asyncio.run(predict())
    wanted = _expected(makers.checkpoint(BACKBONE)).argmax(dim=1)
    assert [labels[0].index for labels in answer.labels] == wanted.tolist()


def test_the_log_is_json_and_holds_no_content(server):
    """Every line parses; requests are there by path and status."""
    events = [json.loads(line) for line in server.log]
    assert {"loading_backbone", "serving"} <= {event["event"] for event in events}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "99999"], "port"),
        (["--engine", "abacus"], "engine"),
    ],
)
def test_wrong_settings_end_the_start(arguments, reason):
    """Exit code 2 and a message that says what to do, before any backbone is loaded."""
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 2
    assert reason in done.output

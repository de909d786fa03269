"""The Open Inference Protocol as Triton's own client speaks it, with a real engine behind."""

import asyncio
import base64
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from adapters.preprocess import normalize
from adapters.store.index import TaskKey
from service.http.app import create_app
from service.http.server import DrainingServer
from service.images import ImageReader
from service.residency import Residency
from tests import makers
from tests.service import http_fakes
from tests.service.fakes import BACKBONE, RealEngine, service

pytestmark = pytest.mark.anyio
SIZE = 160
CHECKPOINTS = (makers.checkpoint(BACKBONE, 4, 0), makers.checkpoint(BACKBONE, 7, 1))


@dataclass
class Server:
    """A server on the loopback with the task "flowers": version 1 has 4 classes, 2 has 7."""

    address: str
    reader: ImageReader

    async def ask(self, work):
        """Let a client of Triton's do something in a thread of its own, where gevent has a loop."""

        def call():
            with triton.InferenceServerClient(self.address) as client:
                return work(client)

        return await asyncio.to_thread(call)


@pytest.fixture
async def server(tmp_path):
    """A real server in front of a real engine."""
    async with service(tmp_path, RealEngine(adapters=4)) as stack:
        reader = ImageReader(
            stack.engine.spec.preprocessing, http_fakes.ImageLimits(), decoders=1, max_waiting=64
        )
        for checkpoint in CHECKPOINTS:
            await stack.manager.register(TaskKey(task="flowers"), checkpoint.data)
        with http_fakes.services(
            predictor=stack.predictor,
            manager=stack.manager,
            residency=Residency(stack.resolver, stack.cache),
            images=reader,
            fingerprint=stack.engine.spec.fingerprint,
        ) as behind:
            app = create_app(behind)
            listening = DrainingServer(app, behind.drain, host="127.0.0.1", port=0, timeout=20)
            running = asyncio.create_task(listening.serve())
            while not listening.started:
                await asyncio.sleep(0)
            url = httpx.URL(listening.address)
            yield Server(f"{url.host}:{url.port}", reader)
            listening.should_exit = True
            await running
        reader.close()


def pictures(count=3):
    """Encoded images, none of the backbone's size."""
    return [makers.encode(makers.picture(170 + n, 200, seed=n)) for n in range(count)]


async def pixels_of(server, encoded):
    """What they look like to the backbone, uint8 [n, H, W, 3]."""
    return await server.reader.read("default", encoded, asyncio.get_running_loop().time() + 60)


def logits_of(pixels, version=2):
    """What the one-task path says of them."""
    model = CHECKPOINTS[version - 1].model(makers.backbone(BACKBONE))
    return model.predict(torch.from_numpy(pixels)).numpy()


def given(name, array, datatype, *, binary=True):
    """An input with its data."""
    tensor = triton.InferInput(name, [*array.shape], datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


async def inputs_of(server, kind, encoded):
    """The same images in one of the forms that a task takes."""
    if kind == "image":
        return given("image", np.array(encoded, dtype=np.object_), "BYTES")
    if kind == "image-json":
        texts = np.array([base64.b64encode(each) for each in encoded], dtype=np.object_)
        return given("image", texts, "BYTES", binary=False)
    pixels = await pixels_of(server, encoded)
    if kind.startswith("pixels"):
        return given("pixels", pixels, "UINT8", binary=kind == "pixels")
    size = makers.backbone(BACKBONE).spec.preprocessing
    tensor = normalize(torch.from_numpy(pixels), size).numpy()
    return given("tensor", tensor, "FP32", binary=kind == "tensor")


async def test_metadata_health_and_readiness(server):
    """The server and its models describe themselves, and say what is not there."""

    def look(client):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("flowers")
        assert client.is_model_ready("flowers", "1")
        assert not client.is_model_ready("flowers", "9")
        assert not client.is_model_ready("birds")
        return (
            client.get_server_metadata(),
            client.get_model_metadata("flowers"),
            client.get_model_metadata("flowers", "1"),
        )

    about, model, version = await server.ask(look)
    assert about["name"] == "protuning"
    assert {"binary_tensor_data", "classification", "model_repository"} <= {*about["extensions"]}
    assert model["versions"] == ["1", "2"]
    assert model["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]},
        {"name": "tensor", "datatype": "FP32", "shape": [-1, 3, SIZE, SIZE]},
    ]
    assert {(out["name"], *out["shape"]) for out in model["outputs"]} == {
        ("probabilities", -1, 7),
        ("logits", -1, 7),
    }
    assert version["outputs"][0]["shape"] == [-1, 4]


@pytest.mark.parametrize(
    "kind", ["image", "image-json", "pixels", "pixels-json", "tensor", "tensor-json"]
)
async def test_every_kind_of_input_gives_the_models_answer(server, kind):
    """Encoded, raw and normalised images, binary and JSON: the logits of the one-task path."""
    encoded = pictures(1 if kind.endswith("json") else 3)
    tensor = await inputs_of(server, kind, encoded)
    answer = await server.ask(
        lambda client: client.infer("flowers", [tensor], request_id="mine", timeout=20_000_000)
    )
    wanted = logits_of(await pixels_of(server, encoded))
    np.testing.assert_allclose(answer.as_numpy("logits"), wanted, rtol=1e-4, atol=1e-4)
    softmax = torch.from_numpy(wanted).softmax(-1).numpy()
    np.testing.assert_allclose(answer.as_numpy("probabilities"), softmax, rtol=1e-4, atol=1e-5)
    about = answer.get_response()
    assert (about["id"], about["model_name"], about["model_version"]) == ("mine", "flowers", "2")


@pytest.mark.parametrize("binary", [True, False])
async def test_outputs_come_as_they_were_asked_for(server, binary):
    """The chosen ones only, in their order, binary or JSON, by the chosen version."""
    encoded = pictures()
    tensor = await inputs_of(server, "image", encoded)
    outputs = [
        triton.InferRequestedOutput("logits", binary_data=binary),
        triton.InferRequestedOutput("probabilities", binary_data=not binary, class_count=3),
    ]
    answer = await server.ask(
        lambda client: client.infer("flowers", [tensor], model_version="1", outputs=outputs)
    )
    wanted = logits_of(await pixels_of(server, encoded), version=1)
    np.testing.assert_allclose(answer.as_numpy("logits"), wanted, rtol=1e-4, atol=1e-4)
    assert [out["name"] for out in answer.get_response()["outputs"]] == ["logits", "probabilities"]
    softmax = torch.from_numpy(wanted).softmax(-1).numpy()
    for row, scores in zip(answer.as_numpy("probabilities"), softmax, strict=True):
        for text, index in zip(row, scores.argsort()[::-1][:3], strict=True):
            text_form = text.decode() if isinstance(text, bytes) else text
            score, number, label = text_form.split(":", 2)
            assert (int(number), label) == (index, f"class {index}")
            assert float(score) == pytest.approx(scores[index], abs=1e-4)


async def test_top_k_of_logits_is_cut_at_the_classes(server):
    """Scores are those of the output, ranked, and never more than there are classes."""
    encoded = pictures(1)
    tensor = await inputs_of(server, "image", encoded)
    outputs = [triton.InferRequestedOutput("logits", class_count=100)]
    answer = await server.ask(lambda client: client.infer("flowers", [tensor], outputs=outputs))
    (row,) = answer.as_numpy("logits")
    (wanted,) = logits_of(await pixels_of(server, encoded))
    given = [text.decode().split(":", 2) for text in row]
    assert [int(index) for _, index, _ in given] == wanted.argsort()[::-1].tolist()
    scores = [float(score) for score, _, _ in given]
    np.testing.assert_allclose(scores, np.sort(wanted)[::-1], rtol=1e-3, atol=1e-4)


async def test_the_repository_loads_and_unloads(server):
    """Loading and unloading are seen in the index; an unloaded task is still served."""
    tensor = await inputs_of(server, "image", pictures(1))

    def states(client):
        return {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}

    def go_around(client):
        client.unload_model("flowers")
        unloaded = states(client)
        client.load_model("flowers")
        loaded = states(client)
        client.unload_model("flowers")
        client.infer("flowers", [tensor])
        return unloaded, loaded, states(client)

    unloaded, loaded, used = await server.ask(go_around)
    assert unloaded == {"flowers": "UNAVAILABLE"}
    assert loaded == used == {"flowers": "READY"}


async def test_errors_reach_the_client_in_words(server):
    """Status and message, for what is missing, wrong, or not offered."""
    tensor = await inputs_of(server, "image", pictures(1))
    broken = given("image", np.array([b"no image"], dtype=np.object_), "BYTES")
    small = given("pixels", np.zeros((1, 8, 8, 3), np.uint8), "UINT8")
    raw = given("tensor", np.full((1, 3, SIZE, SIZE), 255, np.float32), "FP32")
    calls = {
        "There is no task 'birds'": lambda client: client.infer("birds", [tensor]),
        "no version 9": lambda client: client.infer("flowers", [tensor], model_version="9"),
        "Image 1 of 1": lambda client: client.infer("flowers", [broken]),
        "[-1, 160, 160, 3]": lambda client: client.infer("flowers", [small]),
        "Scale pixels": lambda client: client.infer("flowers", [raw]),
        "uncompressed": lambda client: client.infer(
            "flowers", [tensor], request_compression_algorithm="gzip"
        ),
        "sequence_id": lambda client: client.infer("flowers", [tensor], sequence_id=1),
        "config: Extra inputs": lambda client: client.load_model("flowers", config="{}"),
    }
    for says, call in calls.items():
        with pytest.raises(InferenceServerException) as caught:
            await server.ask(call)
        assert says in caught.value.message()
        assert caught.value.status() in {"404", "415", "422"}

r"""The API keeps to its own OpenAPI document, as schemathesis sees it: a short run with a seed.

The long one is by hand, against a server with the tasks "flowers" and "birds":

    schemathesis --config-file tests/service/schemathesis.toml run URL/openapi.json \
        -H "Authorization: Bearer KEY" --checks all -n 40 \
        --exclude-operation-id revoke_key --exclude-operation-id delete_task

(The two would take away the key and the tasks that the others need: they go in a run of their own.)
"""

import asyncio
import json
import re
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

import pytest

from service.http.app import create_app
from service.http.problems import STATUS_BY_ERROR
from tests.service import http_fakes

CONFIG = Path(__file__).with_name("schemathesis.toml")
COMMAND = Path(sys.executable).with_name("schemathesis")


async def _prepare(behind):
    """A key that may do everything, and two tasks."""
    _, token = await behind.keys.create("default", frozenset({"predict", "manage", "admin"}))
    for task in ("flowers", "birds"):
        await behind.manager.register(http_fakes.TaskKey(task=task), b"")
    return str(token)


@pytest.fixture
def document():
    """The OpenAPI document."""
    with http_fakes.services() as behind:
        return create_app(behind).openapi()


def test_schemathesis_finds_nothing(tmp_path):
    """All its checks, fuzzing and stateful: no 5xx, no undocumented status, no other schema."""
    keys = http_fakes.policy_fakes.key_ring(required=True)
    with http_fakes.services(keys=keys) as behind:
        token = asyncio.run(_prepare(behind))
        with http_fakes.live(behind) as server:
            done = subprocess.run(
                [
                    COMMAND, "--config-file", CONFIG, "run", f"{server.address}/openapi.json",
                    "--header", f"Authorization: Bearer {token}", "--checks", "all",
                    "--phases", "fuzzing,stateful", "--max-examples", "5", "--seed", "1",
                    "--no-shrink", "--no-color",
                    "--exclude-operation-id", "revoke_key", "--exclude-operation-id", "delete_task",
                ],
                cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) == int(passed[2]) >= 150


def test_every_operation_documents_its_errors(document):
    """Each with a body, in the protocol's shape; what keys and names bring is among them."""
    known = {*map(int, STATUS_BY_ERROR.values()), HTTPStatus.BAD_REQUEST}
    for path, operations in document["paths"].items():
        shape = "ErrorDocument" if path.startswith("/v2") else "ProblemDocument"
        for operation in operations.values():
            errors = {int(s): r for s, r in operation["responses"].items() if int(s) >= 400}
            assert {414, 415, 421, 431, 500, 503} <= errors.keys() <= known
            assert {401, 403} <= errors.keys() or "security" not in operation
            assert {404, 409} <= errors.keys() or "{" not in path
            assert {408, 413, 422} <= errors.keys() or "requestBody" not in operation
            assert 504 in errors or not path.endswith(("/predict", "/infer", "/load", "/warm"))
            for answer in errors.values():
                (content,) = answer["content"].values()
                assert content["schema"]["$ref"].endswith(f"/{shape}")


def test_every_reference_leads_somewhere(document):
    """No schema is named that the document lacks, and none is there that nobody names."""
    text = json.dumps(document)
    named = {*re.findall(r'"#/components/schemas/([^"]+)"', text)}
    assert named == document["components"]["schemas"].keys()


def test_operations_have_stable_names(document):
    """They are those of the functions, each once: clients are generated from them."""
    names = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len({*names}) == len(names)
    assert {"predict", "predict_many", "register", "infer", "list_tasks"} <= {*names}
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)

"""docs/api.md: its examples run as they stand there, and its tables lack nothing."""

import asyncio
import re
from http import HTTPStatus
from pathlib import Path

from service.http.app import create_app
from service.http.problems import STATUS_BY_ERROR
from tests import makers
from tests.service import http_fakes

GUIDE = Path(__file__).parents[2] / "docs/api.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    """Against a server with keys, each in its own namespace; they print what they promise."""
    examples = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    Path("rose.jpg").write_bytes(makers.encode(makers.picture(), "JPEG"))
    keys = http_fakes.policy_fakes.key_ring(required=True)
    with http_fakes.services(keys=keys) as behind:
        _, token = asyncio.run(behind.keys.create("default", frozenset({"predict"})))
        asyncio.run(behind.manager.register(http_fakes.TaskKey(task="flowers"), b""))
        with http_fakes.live(behind) as server:
            address = server.address.removeprefix("http://")
            for example in examples:
                text = example.replace("127.0.0.1:8000", address).replace("KEY", str(token))
                exec(compile(text, "docs/api.md", "exec"), {})  # noqa: S102  our own guide
    printed = capsys.readouterr().out
    assert printed.count("['flowers', 'birds']") == 2
    assert "'datatype': 'BYTES'" in printed
    assert re.search(r"b'1\.000000:0:\d+'", printed)


def test_every_operation_is_named():
    """Those of the OpenAPI document and of the page at `/`, and no others."""
    with http_fakes.services() as behind:
        paths = create_app(behind).openapi()["paths"]
    answered = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    answered |= {"GET /", "GET /docs", "GET /openapi.json"}
    assert {*re.findall(r"`([A-Z]+ /[^` ]*)`", GUIDE.read_text())} == answered


def test_every_status_is_named():
    """A row for each that an error of ours has, and for the one that only the framework gives."""
    rows = re.findall(r"^\| (\d{3}) \|", GUIDE.read_text(), re.MULTILINE)
    assert rows == sorted({*rows})
    assert {*map(int, rows)} == {*STATUS_BY_ERROR.values(), HTTPStatus.METHOD_NOT_ALLOWED}

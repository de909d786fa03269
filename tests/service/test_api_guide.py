"""The examples of docs/api.md run as they stand there."""

import asyncio
import re
from pathlib import Path

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

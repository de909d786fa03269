"""The command `predict`: several tasks, many files, bad files, and what goes wrong on the way."""

import json

import pytest
import stamina
from typer.testing import CliRunner

from service.cli import app
from service.errors import RateLimited
from tests import makers
from tests.service import http_fakes, policy_fakes


@pytest.fixture
def behind():
    """Everything behind the server's routes; a request may hold 8 images."""
    with http_fakes.services() as services:
        yield services


@pytest.fixture
def run(behind):
    """Runs a command against a server of fakes, which may fail."""
    with http_fakes.live(behind) as server, stamina.set_testing(True, attempts=2):
        yield lambda *arguments: CliRunner().invoke(
            app, ["predict", *map(str, arguments), "--url", server.address], env={"COLUMNS": "80"}
        )


@pytest.fixture
def files(tmp_path):
    """Pictures, the n-th of which is all of colour n: the fake's label."""
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(makers.encode(makers.picture(8, 8, 0).point(lambda _, n=number: n)))
    return paths


def _labels(answer):
    return [prediction["labels"][0]["label"] for prediction in answer["predictions"]]


def test_several_tasks_see_the_same_files(run, behind, files):
    """In one request, in the order in which they are named; for people and for programs."""
    done = run("birds,flowers", *files[:3], "--json", "--priority", -1)
    results = json.loads(done.stdout)["results"]
    assert [each["task"] for each in results] == ["birds", "flowers"]
    assert [_labels(each) for each in results] == [["0", "1", "2"]] * 2
    assert [each["priority"] for each in behind.predictor.asked] == [-1, -1]
    table = run("birds,flowers", *files[:3]).stdout
    assert table.index("birds, version 3") < table.index("flowers, version 3")
    assert table.count(str(files[2])) == 2
    refused = run("birds,flowers", files[0], "--version", 1)
    assert refused.exit_code == 2
    assert len(behind.predictor.asked) == 4


@pytest.mark.parametrize("tasks", ["flowers", "flowers,birds"])
def test_many_files_go_in_as_many_requests_as_they_need(run, behind, files, tasks):
    """All answers in the order of the files, of one version; no request is over the limit."""
    done = run(tasks, *files, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    for each in answer["results"] if "," in tasks else [answer]:
        assert _labels(each) == [str(number) for number in range(20)]
    asked = behind.predictor.asked
    assert max(len(each["images"]) for each in asked) <= 8
    assert {each["version"] for each in asked[len(tasks.split(",")) :]} == {3}


def test_a_bad_file_is_named(run, files):
    """By its path, wherever among the requests it stands; and so is one that is too large."""
    files[13].write_bytes(b"GIF89a")
    done = run("flowers", *files)
    assert done.exit_code != 0
    assert str(done.exception).startswith(f"{files[13]}: ")
    files[1].write_bytes(bytes(5 * 2**20))
    assert str(run("flowers", *files[:3]).exception).startswith(f"{files[1]}: ")


def test_waiting_is_told_in_one_sentence(run, behind, files):
    """On stderr, and without anything of the program's inside."""
    behind.predictor.error = RateLimited("You are over your limit.", retry_after=2.0)
    done = run("flowers", files[0])
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Trying again in ")
    assert "You are over your limit." in line
    assert "stamina" not in line


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, "PROTUNING_API_KEY"), ({"PROTUNING_API_KEY": "x"}, "unknown")],
)
def test_a_missing_key_is_told_for_the_command_line(files, environment, wanted):
    """No header is named to somebody who cannot send one."""
    with (
        http_fakes.services(keys=policy_fakes.key_ring(required=True)) as behind,
        http_fakes.live(behind) as server,
    ):
        arguments = ["predict", "flowers", str(files[0]), "--url", server.address]
        done = CliRunner().invoke(app, arguments, env=environment)
        assert wanted in str(done.exception)
        assert "Authorization" not in str(done.exception)

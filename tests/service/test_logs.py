"""The log: one JSON object a line, for our events and those of libraries, without secrets."""

import io
import json
import logging
import warnings

import pytest
import structlog

from service import logs


@pytest.fixture
def lines():
    """Configures logging, and gives what was logged so far, parsed."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_event_is_one_json_line_with_the_request_id(lines):
    """Structlog and the standard library alike."""
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("ours").info("loaded", task="flowers")
        logging.getLogger("theirs").warning("look at %s", "this")
    structlog.get_logger("ours").debug("too small to mention")
    ours, theirs = lines()
    assert ours["event"] == "loaded"
    assert ours["task"] == "flowers"
    assert theirs["event"] == "look at this"
    assert {line["request_id"] for line in (ours, theirs)} == {"r1"}
    assert {line["level"] for line in (ours, theirs)} == {"info", "warning"}


def test_what_pillow_says_of_an_image_is_not_written():
    """One file could fill the log; what others warn of is still heard."""
    logs.configure("info", "json", io.StringIO())
    warnings.warn_explicit("an odd entry", UserWarning, "x.py", 1, module="PIL.TiffImagePlugin")
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn_explicit("heard", UserWarning, "y.py", 1, module="numpy")


def test_secrets_and_content_are_withheld(lines):
    """No key, no image, nothing without end, whatever somebody passes."""
    structlog.get_logger().info(
        "odd", api_key="4711", Authorization="Bearer 4711", image=b"4711", text="x" * 5_000
    )
    (line,) = lines()
    assert "4711" not in json.dumps(line)
    assert line["image"] == "(4 bytes)"
    assert len(line["text"]) < 2_100


def test_a_traceback_stays_in_its_line(lines):
    """Line breaks of an exception do not break the log."""
    try:
        raise ZeroDivisionError("oh")
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    (line,) = lines()
    assert "ZeroDivisionError: oh" in line["exception"]

"""What clients see of errors: one row for every class, stable types, nothing about the inside."""

import inspect

import pytest

import adapters.errors
import service.errors
import service.http.errors
from service.http.problems import MEDIA_TYPE, STATUS_BY_ERROR, problem_of
from tests.service import http_fakes

SCOPE = {"path": "/tasks", "state": {"request_id": "r"}}
TREES = (adapters.errors, service.errors, service.http.errors)
CLASSES = [
    error
    for tree in TREES
    for _, error in inspect.getmembers(tree, inspect.isclass)
    if error.__module__ == tree.__name__
]


def _made(error_class):
    """An instance with whatever the class wants to know."""
    if issubclass(error_class, service.errors.RetryLater):
        return error_class("what happened", retry_after=0.2)
    if issubclass(error_class, service.errors.AdapterLoadFailed):
        return error_class("what happened", cause="CorruptBlob")
    return error_class("what happened")


def test_every_error_has_a_row():
    """Whoever adds an error decides what a client sees of it."""
    assert set(CLASSES) == set(STATUS_BY_ERROR)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda error: error.__name__)
def test_every_problem_is_complete(error_class):
    """A status that says an error, a type, a title, a detail, and when to come back if later."""
    problem = problem_of(_made(error_class))
    assert 400 <= problem.status <= 599
    assert problem.title
    assert problem.detail
    assert (problem.retry_after is not None) == (problem.status in {429, 503})


def test_types_are_distinct_and_stable():
    """Clients compare them, so renaming a class must not go unnoticed."""
    kinds = {problem_of(_made(error_class)).kind: error_class for error_class in CLASSES}
    assert len(kinds) == len(CLASSES)
    for kind, status in {
        "task-not-found": 404,
        "unknown-task": 404,
        "backbone-conflict": 409,
        "wrong-backbone": 409,
        "image-too-large": 413,
        "too-many-images": 413,
        "body-too-large": 413,
        "unsupported-image-format": 415,
        "unsupported-content-type": 415,
        "broken-image": 422,
        "invalid-request": 422,
        "proof-failed": 422,
        "not-a-checkpoint": 422,
        "rate-limited": 429,
        "overloaded": 503,
        "shutting-down": 503,
        "store-unavailable": 503,
        "adapter-load-failed": 503,
        "deadline-exceeded": 504,
    }.items():
        assert problem_of(_made(kinds[kind])).status == status, kind


def test_a_class_below_a_listed_one_inherits_its_status():
    """An error of somebody else's below ours is still answered."""

    class Newer(adapters.errors.WrongBackbone):
        """Something newer."""

    assert problem_of(Newer("what happened")).status == 409


def test_retry_after_is_whole_seconds_and_never_zero():
    """The header knows no fractions."""
    for seconds, header in ((0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (60.0, "60")):
        error = service.errors.Overloaded("full", retry_after=seconds)
        assert problem_of(error).response(SCOPE).headers["Retry-After"] == header


def test_failures_of_the_store_tell_no_paths():
    """What is in the message of a server's own failure is for its log."""
    for error_class in (
        adapters.errors.StoreUnavailable,
        adapters.errors.CorruptBlob,
        adapters.errors.AdapterError,
    ):
        assert "/srv" not in problem_of(error_class("/srv/store is gone")).detail
    assert "/tasks" in problem_of(adapters.errors.UnknownTask("see /tasks")).detail


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (service.errors.TaskNotFound("no such task"), 404, "task-not-found"),
        (service.errors.RateLimited("slower", retry_after=7.0), 429, "rate-limited"),
        (adapters.errors.StoreUnavailable("gone"), 503, "store-unavailable"),
        (service.errors.DeadlineExceeded("late"), 504, "deadline-exceeded"),
        (ZeroDivisionError("secret 4711"), 500, "internal-error"),
    ],
    ids=lambda value: getattr(type(value), "__name__", None),
)
async def test_errors_are_problem_documents(error, status, kind):
    """Whatever a route ends in, the client gets RFC 9457 with the request's id."""
    with http_fakes.services() as behind:
        behind.manager.error = error
        async with http_fakes.client(behind) as client:
            answer = await client.get("/tasks", headers={"X-Request-Id": "mine-1"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["x-request-id"] == "mine-1"
    document = answer.json()
    assert set(document) == {"type", "title", "status", "detail", "request_id"}
    assert document["type"] == f"urn:protuning:problem:{kind}"
    assert document["status"] == status
    assert document["request_id"] == "mine-1"
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    assert "4711" not in answer.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing/here", 404, "not-found"),
        ("PUT", "/tasks", 405, "method-not-allowed"),
        ("GET", "/tasks?limit=0", 422, "invalid-request"),
        ("GET", "/tasks?limit=many", 422, "invalid-request"),
        ("GET", "/tasks/NO%20TASK", 422, "invalid-request"),
        ("GET", "/tasks/flowers/versions/99999999999999999999/checkpoint", 422, "invalid-request"),
        ("GET", f"/tasks?cursor={'x' * 9000}", 414, "query-too-long"),
    ],
)
async def test_what_the_framework_refuses_is_a_problem_as_well(method, path, status, kind):
    """No route, wrong method, wrong parameters: the same kind of document."""
    with http_fakes.services() as behind:
        async with http_fakes.client(behind) as client:
            answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["type"] == f"urn:protuning:problem:{kind}"
    assert ("allow" in answer.headers) == (status == 405)

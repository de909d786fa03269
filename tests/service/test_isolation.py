"""Every route with every scope, on the caller's own, another tenant's and a missing task.

The table of rules is compared with the application's own routes, so a route without a rule fails
here. Behind the routes stands the real service on a slow obvious engine.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from adapters.store.index import TaskKey
from service.canary import Canary
from service.http.app import create_app
from service.keys import KeyRing
from service.pinning import Pin
from service.tenants import SCOPES, Key, Policy
from tests import makers
from tests.service import http_fakes, policy_fakes
from tests.service.fakes import FakeEngine, checkpoints, predictions_of, service

pytestmark = pytest.mark.anyio

OPEN = SCOPES | {None}
READ, PREDICT, MANAGE, ADMIN = {"predict", "manage"}, {"predict"}, {"manage"}, {"admin"}
PNG = makers.encode(makers.picture())
ME, OTHER = "acme", "zeta"
OWN, FOREIGN, MISSING = "mine", "theirs", "nobodys"
SHARED = "shared"


@dataclass(frozen=True)
class Rule:
    """Which scopes a route takes (None: no key at all), and a request that it answers.

    `creates` says that the task in the request need not exist.
    """

    scopes: set
    request: dict[str, Any] = field(default_factory=dict)
    query: str = ""
    creates: bool = False


IMAGE = {"content": PNG, "headers": {"content-type": "image/png"}}
TENSOR = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}
INFER = {"json": {"inputs": [TENSOR]}}

RULES = {
    ("GET", "/"): Rule(OPEN),
    ("GET", "/openapi.json"): Rule(OPEN),
    ("GET", "/docs"): Rule(OPEN),
    ("GET", "/static"): Rule(OPEN),
    ("GET", "/health/live"): Rule(OPEN),
    ("GET", "/health/ready"): Rule(OPEN),
    ("GET", "/metrics"): Rule(ADMIN),
    ("GET", "/v2"): Rule(OPEN),
    ("GET", "/v2/health/live"): Rule(OPEN),
    ("GET", "/v2/health/ready"): Rule(OPEN),
    ("POST", "/tasks"): Rule(MANAGE, creates=True),
    ("GET", "/tasks"): Rule(READ),
    ("GET", "/tasks/{task}"): Rule(READ),
    ("DELETE", "/tasks/{task}"): Rule(MANAGE),
    ("GET", "/tasks/{task}/versions"): Rule(READ),
    ("GET", "/tasks/{task}/versions/{version}/checkpoint"): Rule(MANAGE),
    ("DELETE", "/tasks/{task}/versions/{version}"): Rule(MANAGE),
    ("POST", "/tasks/{task}/rollback"): Rule(MANAGE),
    ("POST", "/tasks/{task}/canary"): Rule(MANAGE, query="version=1&percent=10"),
    ("DELETE", "/tasks/{task}/canary"): Rule(MANAGE),
    ("POST", "/tasks/{task}/activate"): Rule(MANAGE, query="version=1"),
    ("POST", "/tasks/{task}/warm"): Rule(MANAGE),
    ("POST", "/tasks/{task}/pin"): Rule(ADMIN),
    # Nothing to take away is no error: the same answer for whatever is not pinned.
    ("DELETE", "/tasks/{task}/pin"): Rule(ADMIN, creates=True),
    ("POST", "/tasks/{task}/predict"): Rule(PREDICT, IMAGE),
    ("POST", "/predict"): Rule(PREDICT, IMAGE, query="tasks={task}"),
    ("GET", "/v2/models/{task}"): Rule(READ),
    ("GET", "/v2/models/{task}/versions/{version}"): Rule(READ),
    ("GET", "/v2/models/{task}/ready"): Rule(READ),
    ("GET", "/v2/models/{task}/versions/{version}/ready"): Rule(READ),
    ("POST", "/v2/models/{task}/infer"): Rule(PREDICT, INFER),
    ("POST", "/v2/models/{task}/versions/{version}/infer"): Rule(PREDICT, INFER),
    ("POST", "/v2/repository/index"): Rule(READ),
    ("POST", "/v2/repository/models/{task}/load"): Rule(MANAGE),
    ("POST", "/v2/repository/models/{task}/unload"): Rule(MANAGE),
    ("POST", "/admin/keys"): Rule(ADMIN, {"json": {}}),
    ("GET", "/admin/keys"): Rule(ADMIN),
    ("DELETE", "/admin/keys/{key_id}"): Rule(ADMIN),
    ("GET", "/admin/tenants"): Rule(ADMIN),
    ("GET", "/admin/tenants/{tenant}"): Rule(ADMIN),
    ("PUT", "/admin/tenants/{tenant}"): Rule(ADMIN, {"json": {"weight": 2}}),
    ("DELETE", "/admin/tenants/{tenant}"): Rule(ADMIN),
}
ABOUT_A_TASK = [route for route, rule in RULES.items() if "{task}" in route[1] + rule.query]


def _routes(app):
    """Method and path of everything that the application answers."""
    for route in _flat(app):
        for method in getattr(route, "methods", None) or {"GET"}:
            if method != "HEAD":
                yield method, route.path


def _flat(app):
    """The application's routes, those of its routers among them."""
    for route in app.routes:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else router.routes


@pytest.fixture(scope="module")
def made():
    """Two versions."""
    return checkpoints(2)


@pytest.fixture
async def stack(tmp_path, made):
    """A service, proofs left out."""
    async with service(tmp_path, FakeEngine(predictions_of(made)), proofs=False) as stack:
        yield stack


@pytest.fixture
async def behind(stack):
    """The real service behind the routes."""
    ring = KeyRing(policy_fakes.policies(), required=True)
    with http_fakes.services() as fake:
        yield replace(
            fake,
            predictor=stack.predictor,
            manager=stack.manager,
            releases=stack.releases,
            pinning=stack.pinning,
            quotas=stack.quotas,
            residency=stack.residency,
            keys=ring,
            fingerprint=stack.engine.spec.fingerprint,
        )


async def _have(stack, made, tenant, task):
    """Give a tenant a task with two versions, the last one active, where it has none."""
    key = TaskKey(tenant=tenant, task=task)
    found = await stack.index.list_tasks(tenant, limit=100)
    if (
        key not in [each.key for each in found]
        or len(await stack.manager.versions(key, limit=9)) < 2
    ):
        for checkpoint in made:
            await stack.manager.register(key, checkpoint.data)


async def _ask(behind, route, task, *, scope, made):
    """The answer to a route's request about a task, by a key with one scope, or without a key."""
    method, path = route
    rule = RULES[route]
    headers = dict(rule.request.get("headers", {}))
    if scope is not None:
        _, token = await behind.keys.create(ME, frozenset({scope}))
        headers["X-API-Key"] = str(token)
    request = {**rule.request, "headers": headers}
    if route == ("POST", "/tasks"):
        request["files"] = [("task_id", (None, task)), ("checkpoint", ("a", made[0].data))]
    values = {"task": task, "version": 1, "key_id": "0" * 16, "tenant": OTHER}
    url = f"{path}?{rule.query}".format(**values).rstrip("?")
    async with http_fakes.client(behind) as client:
        return await client.request(method, url, **request)


def test_every_route_has_a_rule():
    """No route without one, and no rule without its route."""
    with http_fakes.services() as services:
        assert {*_routes(create_app(services))} == {*RULES}


@pytest.mark.parametrize("scope", [None, *sorted(SCOPES)], ids=str)
async def test_a_scope_opens_its_routes_and_no_others(stack, behind, made, scope):
    """401 without a key, 403 with the wrong one, and neither where the rule lets it in."""
    for route, rule in RULES.items():
        await _have(stack, made, ME, OWN)
        answer = await _ask(behind, route, OWN, scope=scope, made=made)
        wanted = scope in rule.scopes or None in rule.scopes
        refused = 401 if scope is None else 403
        assert (answer.status_code == refused) is not wanted, (route, answer.text)
        assert answer.status_code < 500, (route, answer.text)


async def test_another_tenants_task_is_a_missing_one(stack, behind, made):
    """The same status, the same words but for the name, and the same questions to the index."""
    await _have(stack, made, OTHER, FOREIGN)
    asked = _record_questions(stack.index)
    for route in ABOUT_A_TASK:
        (scope, *_) = sorted(RULES[route].scopes)
        answers, questions = [], []
        for task in (FOREIGN, MISSING):
            asked.clear()
            answer = await _ask(behind, route, task, scope=scope, made=made)
            document = answer.json() if answer.content else {}
            document.pop("request_id", None)
            answers.append((answer.status_code, str(document).replace(task, "TASK")))
            questions.append([*asked])
        assert answers[0] == answers[1], route
        assert questions[0] == questions[1], route
        assert RULES[route].creates or answers[0][0] == 404, (route, answers)


async def test_nothing_that_one_tenant_does_changes_anothers_task(stack, behind, made):
    """Of the same name, and of a name that only the other has: all is as it was."""
    for task in (FOREIGN, SHARED):
        await _have(stack, made, OTHER, task)
    await stack.releases.start_canary(TaskKey(tenant=OTHER, task=SHARED), 1, 50)
    before = await _everything(stack)
    for route, rule in RULES.items():
        for task in (FOREIGN, SHARED):
            if task == SHARED:
                await _have(stack, made, ME, SHARED)
            (scope, *_) = sorted(rule.scopes - {None})
            await _ask(behind, route, task, scope=scope, made=made)
    assert await _everything(stack) == before


def test_every_route_that_changes_something_is_audited():
    """Whatever is no question and no prediction."""
    questions = {"/predict", "/tasks/{task}/predict", "/v2/repository/index"}
    with http_fakes.services() as services:
        app = create_app(services)
    for route in _flat(app):
        is_question = route.path in questions or route.path.endswith("/infer")
        if not (is_question or (getattr(route, "methods", None) or {"GET"}) & {"GET"}):
            calls = [each.call.__module__ for each in route.dependant.dependencies]
            assert "service.http.audit" in calls, route.path


def test_all_records_of_the_store_are_looked_at_here():
    """A new kind of record may belong to a tenant: say here how it is kept apart."""
    assert {Key.kind, Canary.kind, Pin.kind, "tenant"} == {
        kind.kind for kind in Policy.__subclasses__()
    }


async def _everything(stack):
    """All that another tenant has."""
    tasks = await stack.index.list_tasks(OTHER, limit=100)
    versions = [await stack.index.list_versions(task.key, limit=100) for task in tasks]
    canaries = [stack.releases.canary(task.key) for task in tasks]
    limits = stack.quotas.limits(OTHER).share
    return tasks, versions, canaries, limits if not stack.quotas.overridden() else None


def _record_questions(index):
    """The names of the operations that the index is asked for from now on."""
    asked = []
    read, write = index._read, index._write

    async def reading(statement, *arguments):
        asked.append(statement.__name__)
        return await read(statement, *arguments)

    async def writing(statement, *arguments):
        asked.append(statement.__name__)
        return await write(statement, *arguments)

    index._read, index._write = reading, writing
    return asked

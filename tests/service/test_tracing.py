"""Traces: a request and its phases as one trace, in the client's own, and nothing secret in it."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from adapters.store.index import TaskKey
from service.otel import OpenTelemetryTracer
from service.predict import Predictor
from service.tracing import Tracer
from tests import makers
from tests.service import http_fakes
from tests.service.fakes import BACKBONE, RealEngine, service

pytestmark = pytest.mark.anyio
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def exporter():
    """Where spans end up."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    """A tracer that sends them there at once."""
    tracer = OpenTelemetryTracer(SimpleSpanProcessor(exporter))
    yield tracer
    tracer.close()


async def test_a_prediction_is_one_trace_of_its_phases(tmp_path, tracer, exporter):
    """Decode, load, queue and compute one after the other, below the request, below the client."""
    async with service(tmp_path, RealEngine(adapters=2)) as stack:
        await stack.manager.register(TaskKey(task="flowers"), makers.checkpoint(BACKBONE).data)
        predictor = stack.predictor
        predictor._tracer = tracer
        assert isinstance(predictor, Predictor)
        with http_fakes.services(predictor=predictor, tracer=tracer) as behind:
            behind.images._transform = http_fakes.ImageReader(
                stack.engine.spec.preprocessing, http_fakes.ImageLimits(), decoders=1, max_waiting=1
            )._transform
            async with http_fakes.client(behind) as client:
                answer = await client.post(
                    "/tasks/flowers/predict?top_k=2",
                    content=makers.encode(makers.picture()),
                    headers={
                        "content-type": "image/png",
                        "traceparent": f"00-{TRACE}-{PARENT}-01",
                        "x-request-id": "mine",
                    },
                )
    assert answer.status_code == 200
    *phases, request = exporter.get_finished_spans()
    assert [span.name for span in phases] == ["decode", "load", "queue", "compute"]
    assert request.name == "POST /tasks/{task}/predict"
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/tasks/{task}/predict",
        "http.response.status_code": 200,
        "protuning.request_id": "mine",
    }
    for span in phases:
        assert span.parent.span_id == request.context.span_id
        assert span.start_time <= span.end_time
    _, load, queue, compute = phases
    assert load.start_time <= queue.start_time <= compute.start_time
    assert load.attributes["protuning.tier"] in {"device", "disk"}
    assert compute.attributes["protuning.batch_images"] == 1
    assert compute.attributes["protuning.task"] == "flowers"
    assert request.resource.attributes["service.name"] == "protuning"


async def test_failures_and_strange_headers_are_traced_too(tracer, exporter):
    """A crash is an error; a traceparent that is none begins a trace of its own."""
    with http_fakes.services(tracer=tracer) as behind:
        behind.manager.error = ZeroDivisionError()
        async with http_fakes.client(behind) as client:
            await client.get("/tasks", headers={"traceparent": "00-zz-zz-01"})
            await client.get("/nowhere")
    crash, lost = exporter.get_finished_spans()
    assert crash.parent is None
    assert crash.attributes["http.response.status_code"] == 500
    assert crash.status.status_code.name == "ERROR"
    assert lost.name == "GET"
    assert lost.status.status_code.name == "UNSET"


async def test_without_tracing_nothing_happens():
    """The version that keeps nothing takes everything."""
    tracer = Tracer()
    with tracer.request("GET", {}, "id") as span:
        tracer.phase("load", 1.0, ago=1.0, facts={"a": 1})
        span.end("/", 200)
    tracer.close()

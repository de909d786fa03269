"""Traces by OpenTelemetry, sent to wherever the environment's OTEL_* says. An optional extra."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.tracing import Facts, Span, Tracer

_NANOSECONDS = 1_000_000_000
_PROPAGATOR = TraceContextTextMapPropagator()


class _RequestSpan(Span):
    def __init__(self, span: trace.Span, method: str) -> None:
        self._span = span
        self._method = method

    def end(self, route: str | None, status: int | None) -> None:
        """See Span."""
        if route is not None:
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute("http.route", route)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= 500:
            self._span.set_status(StatusCode.ERROR)


class OpenTelemetryTracer(Tracer):
    """Names and attributes follow OpenTelemetry's conventions for HTTP servers.

    No query, header or body of a request becomes part of a trace.

    Args:
        processor: Takes the spans; OTLP over HTTP, in batches, where none is given.
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        named = Resource({SERVICE_NAME: "protuning"}).merge(OTELResourceDetector().detect())
        # The service closes it itself, after its last request.
        self._provider = TracerProvider(
            resource=Resource.create().merge(named), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("protuning")

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str], request_id: str) -> Iterator[Span]:
        """See Tracer."""
        with self._tracer.start_as_current_span(
            method,
            _PROPAGATOR.extract(headers),
            SpanKind.SERVER,
            {"http.request.method": method, "protuning.request_id": request_id},
        ) as span:
            yield _RequestSpan(span, method)

    def phase(
        self, name: str, seconds: float, *, ago: float = 0.0, facts: Facts | None = None
    ) -> None:
        """See Tracer."""
        end = time.time_ns() - int(ago * _NANOSECONDS)
        attributes = {f"protuning.{fact}": value for fact, value in (facts or {}).items()}
        start = end - int(seconds * _NANOSECONDS)
        span = self._tracer.start_span(name, attributes=attributes, start_time=start)
        span.end(end)

    def close(self) -> None:
        """See Tracer."""
        self._provider.shutdown()

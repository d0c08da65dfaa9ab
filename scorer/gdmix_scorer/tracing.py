"""OpenTelemetry spans of scoring requests, where the environment asks for them.

`Tracing.from_environment()` looks at the SDK's own variables. Without `OTEL_EXPORTER_OTLP_ENDPOINT` (or
`…_TRACES_ENDPOINT`, or `OTEL_TRACES_EXPORTER`) nothing is imported and a request costs one call that does
nothing. A caller's `traceparent` metadata becomes the parent; phases become child spans with the times measured
anyway. Sampling, resource and batching are the SDK's: `OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`, ….
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from gdmix_core.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

SERVICE_NAME: Final = "gdmix-scorer"
_CONTEXT_KEYS: Final = frozenset({"traceparent", "tracestate"})
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SHUTDOWN_MILLISECONDS: Final = 2000

Metadata = Iterable[tuple[str, str | bytes]]


class RequestSpan(Protocol):
    """The span of one request; without tracing its methods do nothing."""

    def note(self, key: str, value: str | int | float | bool) -> None:
        """Add an attribute, say `gdmix.model`."""

    def phase(self, name: str, seconds: float) -> None:
        """Add a child span that took `seconds` and ends now."""

    def end(self, status: str) -> None:
        """End the span; `status` is the name of the gRPC status."""


class Tracing:
    """Starts the spans of requests."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Trace with a provider of the SDK, or not at all."""
        self._provider = provider
        self._start: Callable[[str, Metadata], RequestSpan] = _no_span
        if provider is not None:
            self._start = _Requests(provider.get_tracer(SERVICE_NAME)).start

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], instance: str = "") -> Self:
        """Return what the environment asks for.

        Args:
            environment: `os.environ`.
            instance: names this process among its like.

        Raises:
            MissingDependency: tracing is configured and its packages are not installed.
            UsageError: an exporter or a protocol that is not known.
        """
        exporter = _exporter_name(environment)
        return cls(_provider(exporter, environment, instance)) if exporter else cls()

    @property
    def enabled(self) -> bool:
        """Whether there are spans at all."""
        return self._provider is not None

    def request(self, method: str, metadata: Metadata | None) -> RequestSpan:
        """Start the span of one request.

        Args:
            method: full name, say `gdmix.v1.ScoringService/Score`.
            metadata: what the caller sent.
        """
        return self._start(method, metadata or ())

    def shutdown(self) -> None:
        """Send what is left, for two seconds at most."""
        if self._provider is not None:
            self._provider.force_flush(_SHUTDOWN_MILLISECONDS)
            self._provider.shutdown()


class _NoSpan:
    __slots__ = ()

    def note(self, key: str, value: str | int | float | bool) -> None:
        pass

    def phase(self, name: str, seconds: float) -> None:
        pass

    def end(self, status: str) -> None:
        pass


NO_SPAN: Final[RequestSpan] = _NoSpan()


def _no_span(method: str, metadata: Metadata) -> RequestSpan:  # noqa: ARG001 - the shape of _Requests.start
    return NO_SPAN


class _Requests:
    """Makes spans by the SDK."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER
        self._no_context = Context()

    def start(self, method: str, metadata: Metadata) -> RequestSpan:
        carrier = {key: value for key, value in metadata if key in _CONTEXT_KEYS and isinstance(value, str)}
        # Never the ambient context: requests of one event loop must not become each other's parents.
        context = self._propagator.extract(carrier, self._no_context)
        service, _, name = method.lstrip("/").rpartition("/")
        span = self._tracer.start_span(
            method.lstrip("/"),
            context=context,
            kind=self._kind,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        return _Recording(self._tracer, span) if span.is_recording() else NO_SPAN


class _Recording:
    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def note(self, key: str, value: str | int | float | bool) -> None:
        self._span.set_attribute(key, value)

    def phase(self, name: str, seconds: float) -> None:
        from opentelemetry.trace import set_span_in_context

        now = time.time_ns()
        child = self._tracer.start_span(
            name, context=set_span_in_context(self._span), start_time=now - round(seconds * 1e9)
        )
        child.end(now)

    def end(self, status: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.grpc.status", status)
        if status in _SERVER_FAULTS:
            self._span.set_status(StatusCode.ERROR, status)
        self._span.end()


_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""What the conventions call a server's error; other statuses are the caller's."""


def _exporter_name(environment: Mapping[str, str]) -> str:
    """Return `otlp`, `console`, or "" for no tracing."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    name = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not name:
        return "otlp" if any(environment.get(variable) for variable in _ENDPOINTS) else ""
    if name not in {"otlp", "console", "none"}:
        raise UsageError(f"OTEL_TRACES_EXPORTER: found {name!r}; allowed are otlp, console and none")
    return "" if name == "none" else name


def _protocol(environment: Mapping[str, str]) -> str:
    name = next((environment[variable] for variable in _PROTOCOLS if environment.get(variable)), "grpc")
    if name not in {"grpc", "http/protobuf"}:
        raise UsageError(f"OTEL_EXPORTER_OTLP_PROTOCOL: found {name!r}; allowed are grpc and http/protobuf")
    return name


def _provider(exporter: str, environment: Mapping[str, str], instance: str) -> TracerProvider:
    protocol = _protocol(environment)
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        spans = _exporter(exporter, protocol)
    except ImportError as error:
        transport = "http" if exporter == "otlp" and protocol != "grpc" else "grpc"
        raise MissingDependency(
            "the environment asks for traces (OTEL_…), but OpenTelemetry is not installed "
            f"({error}): pip install 'gdmix[otel]'"
            + (" opentelemetry-exporter-otlp-proto-http" if transport == "http" else "")
            + ", or set OTEL_SDK_DISABLED=true"
        ) from error
    attributes: dict[str, Any] = {"service.instance.id": instance} if instance else {}
    named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    if not named:
        attributes["service.name"] = SERVICE_NAME
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(spans))
    return provider


def _exporter(name: str, protocol: str) -> SpanExporter:
    if name == "console":
        import sys

        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

    exporter: SpanExporter = HttpSpanExporter()
    return exporter

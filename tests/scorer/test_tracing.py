"""Spans where they are asked for, nothing where they are not."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from gdmix_core.errors import MissingDependency, UsageError
from gdmix_scorer.tracing import NO_SPAN, Tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
METADATA = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("authorization", "Bearer x"), ("x-bin", b"\x00"))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"},
    ],
)
def test_off_unless_asked_for(environment):
    tracing = Tracing.from_environment(environment)
    assert not tracing.enabled
    span = tracing.request("gdmix.v1.ScoringService/Score", METADATA)
    assert span is NO_SPAN
    span.note("gdmix.model", "movies")
    span.phase("store", 0.001)
    span.end("OK")
    tracing.shutdown()


def test_nothing_is_imported_when_off():
    script = """
        import sys
        from gdmix_scorer.tracing import Tracing
        Tracing.from_environment({}).request("x/y", None).end("OK")
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    assert python(script) == "[]"


def test_configured_but_not_installed_says_what_to_do():
    script = """
        import sys
        sys.modules["opentelemetry"] = None
        from gdmix_core.errors import MissingDependency
        from gdmix_scorer.tracing import Tracing
        try:
            Tracing.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"})
        except MissingDependency as error:
            print(error)
    """
    message = python(script)
    assert "pip install 'gdmix[otel]'" in message
    assert "OTEL_SDK_DISABLED=true" in message


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "allowed are otlp, console and none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "allowed are grpc and http/protobuf",
        ),
    ],
)
def test_settings_that_are_not_known(environment, message):
    with pytest.raises(UsageError, match=message):
        Tracing.from_environment(environment)


def python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class TestWithTheSdk:
    @pytest.fixture
    def spans(self):
        pytest.importorskip("opentelemetry.sdk")
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracing = Tracing(provider)
        yield tracing
        tracing.shutdown()

    def test_a_request_continues_the_callers_trace(self, spans):
        span = spans.request("/gdmix.v1.ScoringService/Score", METADATA)
        span.note("gdmix.version", 3)
        span.phase("store", 0.002)
        span.end("UNAVAILABLE")
        store, request = self.exporter.get_finished_spans()
        assert request.name == "gdmix.v1.ScoringService/Score"
        assert f"{request.context.trace_id:032x}" == TRACE
        assert f"{request.parent.span_id:016x}" == CALLER
        assert request.attributes["rpc.method"] == "Score"
        assert request.attributes["rpc.service"] == "gdmix.v1.ScoringService"
        assert request.attributes["gdmix.version"] == 3
        assert request.status.status_code.name == "ERROR"
        assert store.name == "store"
        assert store.parent.span_id == request.context.span_id
        assert store.end_time - store.start_time == 2_000_000

    def test_requests_are_no_parents_of_each_other(self, spans):
        first = spans.request("s/A", None)
        second = spans.request("s/B", ())
        second.end("OK")
        first.end("INVALID_ARGUMENT")
        b, a = self.exporter.get_finished_spans()
        assert a.parent is None
        assert b.parent is None
        assert a.context.trace_id != b.context.trace_id
        assert a.status.status_code.name == "UNSET"

    def test_what_the_caller_does_not_sample_is_not_recorded(self, spans):
        span = spans.request("s/A", (("traceparent", f"00-{TRACE}-{CALLER}-00"),))
        assert span is NO_SPAN

    def test_the_environment_decides_where_spans_go(self):
        pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
        tracing = Tracing.from_environment(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, instance="scorer-0"
        )
        resource = tracing._provider.resource.attributes
        assert resource["service.name"] == "gdmix-scorer"
        assert resource["service.instance.id"] == "scorer-0"
        tracing.shutdown()

    def test_without_the_http_exporter_the_message_names_it(self):
        pytest.importorskip("opentelemetry.sdk")
        try:
            import opentelemetry.exporter.otlp.proto.http  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("the exporter is installed")
        with pytest.raises(MissingDependency, match="opentelemetry-exporter-otlp-proto-http"):
            Tracing.from_environment(
                {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
            )

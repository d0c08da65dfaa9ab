"""One serving process: puts store, versions, services and port together, and lives until it is told to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from gdmix_core.compiled import kernel_modules, warm_up
from gdmix_core.errors import Unavailable
from gdmix_core.security import Authorizer, require_safe_binding
from gdmix_core.store import open_store
from gdmix_core.store.async_reading import open_reader
from gdmix_scorer.access_log import AccessLog
from gdmix_scorer.child_link import ChildLink, Snapshot
from gdmix_scorer.coefficients import Coefficients
from gdmix_scorer.inference import servicer as inference
from gdmix_scorer.metrics import ScorerMetrics
from gdmix_scorer.rpc import Calls, quieten_grpc, server_options
from gdmix_scorer.service import Scoring
from gdmix_scorer.servicer import ScoringServicer, add_services
from gdmix_scorer.settings import ScorerSettings
from gdmix_scorer.tracing import Tracing
from gdmix_scorer.versions import Version, Versions
from gdmix_scorer.versions.version import ServedModel

logger = logging.getLogger(__name__)

_LAG_SECONDS: Final = 0.1
_ALLOCATIONS_PER_COLLECTION: Final = 10_000
_KERNELS: Final = ("gdmix_core.scoring.", "gdmix_core.store.", "gdmix_core.data.")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def run_child(settings: ScorerSettings, port: int, link: ChildLink) -> int:
    """Serve on a port until SIGTERM, or the end of the parent; return the exit code.

    Raises:
        GdmixError: it cannot serve.
    """
    import uvloop

    quieten_grpc()
    warm_up(modules=[name for name in kernel_modules() if name.startswith(_KERNELS)])
    _spare_the_collector()
    uvloop.run(_Child(settings, port, link).run())
    return 0


def _spare_the_collector() -> None:
    """Take what was imported out of garbage collection: going through all of it stops requests for 50 ms and more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, 20, 50)


class _Child:
    def __init__(self, settings: ScorerSettings, port: int, link: ChildLink) -> None:
        self._settings = settings
        self._port = port
        self._link = link
        self._metrics = ScorerMetrics()
        self._health = HealthServicer()
        self._healthy = False
        self._ready = False

    async def run(self) -> None:
        """Serve, then drain."""
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, ending.set)
        self._link.when_parent_ends(lambda: _from_thread(loop, ending))
        settings = self._settings
        authorizer = (
            Authorizer() if settings.token_file is None else Authorizer.from_file(settings.token_file)
        )
        require_safe_binding(
            settings.host,
            tls=settings.tls_cert is not None,
            tokens=authorizer.enforced,
            insecure=settings.insecure,
        )
        tracing = Tracing.from_environment(os.environ, settings.instance)
        log = AccessLog.from_settings(
            settings.access_log,
            settings.access_log_sample,
            features=settings.access_log_features,
            instance=settings.instance,
        )
        store = open_store(settings.store)
        coefficients = Coefficients(open_reader(settings.store), settings.cache_bytes)
        self._versions = Versions(store, coefficients, settings, self._metrics)
        self._metrics.cache(coefficients.cache)
        self._metrics.access_log(log)
        scoring = Scoring(settings, self._versions, coefficients, self._metrics, log)
        calls = Calls(scoring, self._metrics, authorizer, tracing)
        server = await self._listen(calls)
        helpers = [asyncio.create_task(self._watch_health()), asyncio.create_task(self._watch_loop())]
        try:
            await self._versions.start()
            self._link.answer_with(self._snapshot)
            self._link.report("listening", port=self._port)
            await ending.wait()
        finally:
            for helper in helpers:
                helper.cancel()
            await self._drain(server)
            await self._versions.stop()
            await coefficients.close()
            store.close()
            await asyncio.to_thread(log.close)
            await asyncio.to_thread(tracing.shutdown)

    async def _listen(self, calls: Calls) -> grpc.aio.Server:
        settings = self._settings
        server = grpc.aio.server(options=server_options(settings))
        own = ScoringServicer(calls, self._versions, settings.instance)
        other = inference.InferenceServicer(
            calls, self._versions, settings.instance, serving=lambda: self._healthy
        )
        names = [add_services(server, own), inference.add_services(server, other)]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((*names, health, reflection.SERVICE_NAME), server)
        self._names = ("", *names)
        await self._set_health(_NOT_SERVING)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{self._port}"
        try:
            credentials = _credentials(settings)
            if credentials is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {address}") from error
        if bound != self._port:
            raise Unavailable(f"cannot listen on {address}")
        await server.start()
        return server

    async def _drain(self, server: grpc.aio.Server) -> None:
        """Say that no more is taken, and finish what is under way."""
        began = time.monotonic()
        self._healthy = False
        await self._health.enter_graceful_shutdown()
        await server.stop(self._settings.drain_seconds)
        logger.info("drained in %.2f s", time.monotonic() - began)

    # ---- what it says of itself --------------------------------------------------------------------------

    async def _watch_health(self) -> None:
        """Keep grpc.health.v1 in line with whether there are versions, and report the first time."""
        while True:
            serving = self._versions.serving
            if serving != self._healthy:
                await self._set_health(_SERVING if serving else _NOT_SERVING)
                self._healthy = serving
            if serving and not self._ready:
                self._ready = True
                self._link.report("ready")
            await asyncio.sleep(0.02 if not self._ready else self._settings.poll_seconds)

    async def _set_health(self, status: Any) -> None:
        for name in self._names:
            await self._health.set(name, status)

    async def _watch_loop(self) -> None:
        """Measure how late the event loop comes to what is due."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self._metrics.loop_lag(max(0.0, loop.time() - due))

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            serving=self._healthy,
            versions=[_shown(model, version) for model, version in self._versions.all()],
            metrics=self._metrics.snapshot(),
        )


def _shown(model: ServedModel, version: Version) -> Mapping[str, object]:
    return {
        "model": version.model,
        "version": version.number,
        "state": version.state.value,
        "active": version is model.active,
        "aliases": sorted(alias for alias, target in model.aliases.items() if target is version),
        "in_flight": version.in_flight,
        "requests": version.requests,
        "error": version.error,
    }


def _credentials(settings: ScorerSettings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    authority = settings.tls_client_ca
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
        root_certificates=None if authority is None else authority.read_bytes(),
        require_client_auth=authority is not None,
    )


def _from_thread(loop: asyncio.AbstractEventLoop, ending: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: this process has ended already
        loop.call_soon_threadsafe(ending.set)

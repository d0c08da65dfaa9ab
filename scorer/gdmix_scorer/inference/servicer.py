"""`inference.GRPCInferenceService`: a method reads its request, calls one function, and writes the answer."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Any, Final

import grpc
import grpc.aio

from gdmix_core.errors import NotFound, Unavailable
from gdmix_proto.inference.v2 import inference_pb2 as wire
from gdmix_scorer.calls import ScoreAnswer, ScoreCall
from gdmix_scorer.convert import parse
from gdmix_scorer.inference import convert
from gdmix_scorer.rpc import Calls
from gdmix_scorer.versions import Versions

SERVICE: Final = "inference.GRPCInferenceService"
EXTENSIONS: Final = ("parameters",)
"""Of the protocol: requests have parameters of our own."""


class InferenceServicer:
    """The scorer for clients of KServe and Triton."""

    def __init__(self, calls: Calls, versions: Versions, instance: str, serving: Callable[[], bool]) -> None:
        """Answer by `versions`, ready while `serving` says so."""
        self._calls = calls
        self._versions = versions
        self._instance = instance
        self._serving = serving

    def handlers(self) -> dict[str, Any]:
        """Return the methods. They get and give bytes: what cannot be read is answered by us, not by gRPC."""
        looking = self._calls.looking
        methods = {
            # As for grpc.health.v1, whoever asks may know.
            "ServerLive": looking(self._server_live, anyone=True),
            "ServerReady": looking(self._server_ready, anyone=True),
            "ModelReady": looking(self._model_ready),
            "ServerMetadata": looking(self._server_metadata),
            "ModelMetadata": looking(self._model_metadata),
            "ModelInfer": self._calls.scoring(f"{SERVICE}/ModelInfer", "inference", _read, self._write),
        }
        return {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}

    def _server_live(self, data: bytes) -> bytes:
        parse(wire.ServerLiveRequest, data)
        return wire.ServerLiveResponse(live=True).SerializeToString()

    def _server_ready(self, data: bytes) -> bytes:
        parse(wire.ServerReadyRequest, data)
        return wire.ServerReadyResponse(ready=self._serving()).SerializeToString()

    def _model_ready(self, data: bytes) -> bytes:
        request = parse(wire.ModelReadyRequest, data)
        choice = convert.choice_from_proto(request.name, request.version)
        try:
            ready = self._serving() and self._versions.choose(choice) is not None
        except Unavailable:  # it is known, and has no version yet
            ready = False
        return wire.ModelReadyResponse(ready=ready).SerializeToString()

    def _server_metadata(self, data: bytes) -> bytes:
        parse(wire.ServerMetadataRequest, data)
        return wire.ServerMetadataResponse(
            name="gdmix", version=installed_version("gdmix"), extensions=EXTENSIONS
        ).SerializeToString()

    def _model_metadata(self, data: bytes) -> bytes:
        request = parse(wire.ModelMetadataRequest, data)
        choice = convert.choice_from_proto(request.name, request.version)
        version = self._versions.choose(choice)
        loaded = sorted(one.number for _, one in self._versions.all(request.name) if one.available)
        if version is None or version.scoring is None:
            raise NotFound(
                f"version: {request.version!r} of model {request.name!r} is not loaded; loaded: "
                f"{', '.join(map(str, loaded)) or 'none'} (a request that is scored by it loads it)"
            )
        return convert.metadata_to_proto(version.model, loaded, version.scoring).SerializeToString()

    def _write(self, call: ScoreCall, answer: ScoreAnswer) -> bytes:
        assert isinstance(call, convert.InferenceCall)
        return convert.answer_to_proto(answer, call, self._instance).SerializeToString()


def _read(data: bytes) -> ScoreCall:
    return convert.call_from_proto(parse(wire.ModelInferRequest, data))


def add_services(server: grpc.aio.Server, servicer: InferenceServicer) -> str:
    """Register the service and return its full name."""
    handler = grpc.method_handlers_generic_handler(SERVICE, servicer.handlers())
    server.add_generic_rpc_handlers((handler,))
    return SERVICE

"""`gdmix.v1.ScoringService`: a method reads its request, calls one function of the domain, and writes the answer."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from gdmix_core.errors import GdmixError
from gdmix_proto.v1 import scoring_pb2 as wire
from gdmix_scorer import convert
from gdmix_scorer.calls import ScoreAnswer, ScoreCall
from gdmix_scorer.rpc import Calls, Context, abort
from gdmix_scorer.versions import Versions

SERVICE: Final = "gdmix.v1.ScoringService"


class ScoringServicer:
    """The scorer's own service."""

    def __init__(self, calls: Calls, versions: Versions, instance: str) -> None:
        self._calls = calls
        self._versions = versions
        self._instance = instance

    def handlers(self) -> dict[str, Any]:
        """Return the methods. They get and give bytes: what cannot be read is answered by us, not by gRPC."""
        score = self._calls.scoring(f"{SERVICE}/Score", "columnar", _read, self._write)
        return {
            "Score": grpc.unary_unary_rpc_method_handler(score),
            "ScoreStream": grpc.stream_stream_rpc_method_handler(self._stream),
            "GetModelStatus": grpc.unary_unary_rpc_method_handler(self._calls.looking(self._status)),
        }

    async def _stream(self, requests: AsyncIterable[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer request after request; one that fails is answered by its error."""
        try:
            self._calls.authorize(context)
        except GdmixError as error:
            await abort(context, error)
        method = f"{SERVICE}/ScoreStream"
        async for data in requests:
            try:
                yield await self._calls.respond(method, "columnar", data, context, _read, self._write)
            except GdmixError as error:
                response = convert.error_to_proto(error, convert.request_id_of(data), self._instance)
                yield response.SerializeToString()

    def _write(self, call: ScoreCall, answer: ScoreAnswer) -> bytes:
        return convert.answer_to_proto(answer, call, self._instance).SerializeToString()

    def _status(self, data: bytes) -> bytes:
        request = convert.parse(wire.GetModelStatusRequest, data)
        return wire.GetModelStatusResponse(
            instance=self._instance,
            versions=[
                convert.status_to_proto(model, version)
                for model, version in self._versions.all(request.name, request.version)
            ],
        ).SerializeToString()


def _read(data: bytes) -> ScoreCall:
    return convert.call_from_proto(convert.parse(wire.ScoreRequest, data))


def add_services(server: grpc.aio.Server, servicer: ScoringServicer) -> str:
    """Register the service and return its full name."""
    handler = grpc.method_handlers_generic_handler(SERVICE, servicer.handlers())
    server.add_generic_rpc_handlers((handler,))
    return SERVICE

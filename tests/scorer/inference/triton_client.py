"""Talks to a scorer by the real tritonclient, and prints what it heard as JSON.

A program of its own: tritonclient registers the protocol's messages under the names that ours have, and one
process cannot hold both. Arguments: address, schema fingerprint. On stdin: our contract, as a FileDescriptorProto.
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException


def tensor(name, datatype, array):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def columns():
    return [
        tensor("user_id", "BYTES", np.array([b"450"], np.object_)),
        tensor("age", "FP64", np.array([0.5])),
        tensor("gender", "BYTES", np.array(["F"], np.object_)),
        tensor("movie_id", "INT64", np.array([[7], [50], [9]])),
        tensor("year", "FP32", np.array([1.0, -0.5, 0.25], np.float32)),
        tensor("genres", "BYTES", np.array([["War", ""], ["Drama", "Action"], ["", "Unheard"]], np.object_)),
        tensor("embedding", "FP32", np.array([[1, 0, -1], [0.5, 0.5, 0], [0, 0, 0]], np.float32)),
    ]


def encoded():
    return [
        tensor("user:context:indices", "INT32", np.array([0, 1], np.int32)),
        tensor("user:context:values", "FP64", np.array([0.5, 1.0])),
        tensor("movie:offsets", "INT32", np.array([0, 0, 2], np.int32)),
        tensor("movie:indices", "INT32", np.array([3, 6], np.int32)),
        tensor("movie:values", "FP32", np.array([1.0, -0.5], np.float32)),
        tensor("movie_id", "BYTES", np.array(["7", "zoë"], np.object_)),
    ]


def heard(result):
    response = result.get_response()
    return {
        "outputs": {output.name: result.as_numpy(output.name).tolist() for output in response.outputs},
        "version": response.model_version,
        "id": response.id,
        "degraded": response.parameters["degraded"].bool_param,
    }


def refused(call):
    try:
        call()
    except InferenceServerException as error:
        return error.status(), error.message()
    return None


def numbered(message):
    """Names, numbers and types of the fields of a message and of those inside it."""
    fields = {field.name: (field.number, field.type, field.label, field.type_name) for field in message.field}
    return {"": fields, **{inner.name: numbered(inner) for inner in message.nested_type}}


def same_contract(ours):
    """Which of our messages and methods are not as in tritonclient's contract."""
    theirs = descriptor_pb2.FileDescriptorProto.FromString(service_pb2.DESCRIPTOR.serialized_pb)
    messages = {message.name: numbered(message) for message in theirs.message_type}
    methods = {m.name: (m.input_type, m.output_type) for s in theirs.service for m in s.method}
    return [m.name for m in ours.message_type if messages.get(m.name) != numbered(m)] + [
        m.name for s in ours.service for m in s.method if methods.get(m.name) != (m.input_type, m.output_type)
    ]


async def by_asyncio(address):
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        # More at once than a connection takes: the others wait for their turn.
        answers = await asyncio.gather(*(client.infer("catalogue", columns()) for _ in range(32)))
        return [heard(answer) for answer in answers]


def main():
    address, fingerprint = sys.argv[1:]
    ours = descriptor_pb2.FileDescriptorProto.FromString(sys.stdin.buffer.read())
    with triton.InferenceServerClient(address) as client:
        wanted = [triton.InferRequestedOutput(n) for n in ("scores", "contribution:per_user")]
        found = {
            "unlike": same_contract(ours),
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": [client.is_model_ready("catalogue", v) for v in ("", "1", "canary", "9")],
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata("catalogue", as_json=True),
            "usual": heard(client.infer("catalogue", columns())),
            "chosen": heard(
                client.infer(
                    "catalogue", columns(), "canary", wanted, "page-7", priority=1, timeout=1_000_000
                )
            ),
            "encoded": heard(
                client.infer("catalogue", encoded(), parameters={"schema_fingerprint": fingerprint})
            ),
            "refused": [
                refused(lambda: client.infer("catalogue", [tensor("year", "FP64", np.array([np.nan]))])),
                refused(lambda: client.infer("nobody", columns())),
                refused(lambda: client.get_model_config("catalogue")),
            ],
        }
    found["asyncio"] = asyncio.run(by_asyncio(address))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

"""Clients that have nothing of ours but the .proto file, or nothing at all but a server that describes itself."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import subprocess
import sys
from pathlib import Path

import grpc_tools
import pytest

from gdmix_client import LocalScorer

from .conftest import CANDIDATES

PROTO = Path(__file__).parents[3] / "proto" / "gdmix_proto" / "v1" / "scoring.proto"

FROM_THE_PROTO_FILE = """
import json, sys
import grpc
sys.path.insert(0, sys.argv[3])
import scoring_pb2, scoring_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    request = scoring_pb2.ScoreRequest()
    request.model.name = "shop"
    request.readable.context.values["user_id"].text = "ann"
    request.readable.context.values["age"].number = 0.5
    for color in ("red", "blue"):
        request.readable.candidates.add().values["color"].text = color
    metadata = (("authorization", "Bearer " + sys.argv[2]),)
    response = stub.Score(request, timeout=10, metadata=metadata)
    streamed = list(stub.ScoreStream(iter([request]), timeout=10, metadata=metadata))
    status = stub.GetModelStatus(scoring_pb2.GetModelStatusRequest(name="shop"), timeout=10, metadata=metadata)
    assert list(streamed[0].scores) == list(response.scores)
    assert any(version.active for version in status.versions)
    assert not any(name.startswith("gdmix") for name in sys.modules)
    print(json.dumps({"scores": list(response.scores), "version": response.version}))
"""

FROM_REFLECTION = """
import json, sys
import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

metadata = (("authorization", "Bearer " + sys.argv[2]),)
with grpc.insecure_channel(sys.argv[1]) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "gdmix.v1.ScoringService" in database.get_services()
    method = DescriptorPool(database).FindServiceByName("gdmix.v1.ScoringService").methods_by_name["Score"]
    Request = message_factory.GetMessageClass(method.input_type)
    Response = message_factory.GetMessageClass(method.output_type)
    request = json_format.ParseDict(
        {
            "model": {"name": "shop"},
            "readable": {
                "context": {"values": {"user_id": {"text": "ann"}, "age": {"number": 0.5}}},
                "candidates": [{"values": {"color": {"text": color}}} for color in ("red", "blue")],
            },
        },
        Request(),
    )
    call = channel.unary_unary(
        "/gdmix.v1.ScoringService/Score", Request.SerializeToString, Response.FromString
    )
    response = call(request, timeout=10, metadata=metadata)
    assert not any(name.startswith("gdmix") for name in sys.modules)
    print(json.dumps({"scores": list(response.scores), "version": response.version}))
"""


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """A directory with code generated from a copy of the .proto file."""
    shutil.copy(PROTO, tmp_path)
    includes = importlib.resources.files(grpc_tools) / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"-I{includes}"]
    command += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", "scoring.proto"]
    subprocess.run(command, check=True, timeout=60)
    return tmp_path


@pytest.mark.parametrize("program", [FROM_THE_PROTO_FILE, FROM_REFLECTION], ids=["proto file", "reflection"])
def test_a_client_of_somebody_else(served: LocalScorer, generated: Path, program: str) -> None:
    token = served.token_file.read_text(encoding="ascii").strip()
    # In a process of its own: one process can register a message's name once only.
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, served.address, token, str(generated)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = [type(CANDIDATES[0])(color=color).score("ann", 0.5) for color in ("red", "blue")]
    assert found["scores"] == pytest.approx(expected)
    assert found["version"] == 2

"""Between `inference.GRPCInferenceService`'s messages and the scorer's own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gdmix_core.errors import UsageError
from gdmix_core.scoring.scoring_model import ScoringModel
from gdmix_proto.inference.v2 import inference_pb2 as wire
from gdmix_scorer.calls import ModelChoice, ScoreAnswer, ScoreCall
from gdmix_scorer.inference import signature
from gdmix_scorer.inference.candidates import candidates_of, rows_allowed
from gdmix_scorer.inference.tensors import TYPED_FIELDS, Tensor, check_header, raw_values, typed_values

PLATFORM: Final = "gdmix"
CANDIDATES: Final = "candidates"
SCHEMA_FINGERPRINT: Final = "schema_fingerprint"
_NOT_HERE: Final = ("shared_memory_region", "classification")
"""Parameters of tensors that ask for what would be another answer."""


@dataclass(frozen=True, slots=True)
class InferenceCall(ScoreCall):
    """One request of this protocol.

    Attributes:
        raw: whether contents come, and go, as raw bytes.
        outputs: names of the tensors that are wanted.
    """

    raw: bool = True
    outputs: tuple[str, ...] = signature.USUAL_OUTPUTS


def choice_from_proto(name: str, version: str) -> ModelChoice:
    """Return which model and version a request names.

    Raises:
        UsageError: the number is none of a version.
    """
    if not version:
        return ModelChoice(name)
    if not (version.isascii() and version.isdigit()):
        return ModelChoice(name, alias=version)
    number = int(version) if len(version) < 19 else 0
    if number < 1:
        raise UsageError(
            f"model_version: found {version!r}; versions are from 1 to 10^18, other texts are aliases"
        )
    return ModelChoice(name, version=number)


def call_from_proto(message: wire.ModelInferRequest) -> InferenceCall:
    """Read a request.

    Raises:
        UsageError: it makes no sense; the message names the tensor or the field.
    """
    parameters = message.parameters
    candidates = _parameter(parameters, CANDIDATES, ("int64_param", "uint64_param"))
    fingerprint = _parameter(parameters, SCHEMA_FINGERPRINT, ("string_param",))
    raw = len(message.raw_input_contents) > 0
    outputs = _wanted(message.outputs)
    return InferenceCall(
        form="inference",
        choice=choice_from_proto(message.model_name, message.model_version),
        candidates=candidates_of(_tensors(message, raw), candidates, fingerprint or ""),
        request_id=message.id,
        contributions=any(name.startswith(signature.CONTRIBUTION) for name in outputs),
        raw=raw,
        outputs=outputs or signature.USUAL_OUTPUTS,
    )


def _parameter(parameters: Any, name: str, kinds: Sequence[str]) -> Any:
    """Return a parameter of the request; None if it is not there."""
    if name not in parameters:
        return None
    value = parameters[name]
    kind = value.WhichOneof("parameter_choice")
    if kind not in kinds:
        raise UsageError(f"parameter {name!r}: found {kind or 'nothing'}; allowed: {' and '.join(kinds)}")
    return getattr(value, kind)


def _wanted(outputs: Iterable[wire.ModelInferRequest.InferRequestedOutputTensor]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for tensor in outputs:
        if tensor.name in names:
            raise UsageError(f"output {tensor.name!r}: comes twice")
        _check_parameters(tensor, "output")
        names[tensor.name] = None
    return tuple(names)


def _check_parameters(tensor: Any, what: str) -> None:
    for name in _NOT_HERE:
        if name in tensor.parameters:
            raise UsageError(f"{what} {tensor.name!r}: parameter {name!r} is not supported")


def _tensors(message: wire.ModelInferRequest, raw: bool) -> list[Tensor]:
    """Read the inputs, checking each before anything is made of it."""
    inputs, contents = message.inputs, message.raw_input_contents
    if raw and len(contents) != len(inputs):
        for tensor in inputs:
            _check_parameters(tensor, "input")
            _check_no_contents(tensor)
        raise UsageError(
            f"raw_input_contents: found {len(contents)}; allowed are {len(inputs)}, the number of inputs"
        )
    seen: set[str] = set()
    tensors: list[Tensor] = []
    for number, tensor in enumerate(inputs):
        name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
        if name in seen:
            raise UsageError(f"input {name!r}: comes twice")
        seen.add(name)
        elements = check_header(name, datatype, shape, rows_allowed(name))
        if tensor.parameters:
            _check_parameters(tensor, "input")
        if raw:
            _check_no_contents(tensor)
            values = raw_values(name, datatype, elements, contents[number])
        else:
            values = typed_values(name, datatype, elements, _field(tensor))
        tensors.append(Tensor(name, datatype, shape, values))
    return tensors


def _check_no_contents(tensor: wire.ModelInferRequest.InferInputTensor) -> None:
    if tensor.HasField("contents") and tensor.contents.ByteSize():
        raise UsageError(f"input {tensor.name!r}: has contents, and the request has raw_input_contents")


def _field(tensor: wire.ModelInferRequest.InferInputTensor) -> Any:
    """Return the contents' field for the tensor's datatype; no other may have elements."""
    wanted = TYPED_FIELDS.get(tensor.datatype)
    if wanted is None:
        raise UsageError(
            f"input {tensor.name!r}: {tensor.datatype} has no typed contents; send raw_input_contents"
        )
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != wanted:
            raise UsageError(
                f"input {tensor.name!r}: contents.{descriptor.name} is given; {tensor.datatype} goes into "
                f"contents.{wanted}"
            )
    return getattr(tensor.contents, wanted)


# ---- answers ---------------------------------------------------------------------------------------------


def answer_to_proto(answer: ScoreAnswer, call: InferenceCall, instance: str) -> wire.ModelInferResponse:
    """Return an answer, raw if its request was.

    Raises:
        UsageError: an output that is wanted does not exist.
    """
    response = wire.ModelInferResponse(
        model_name=answer.model, model_version=str(answer.version), id=call.request_id
    )
    for name in call.outputs:
        numbers = signature.output(name, answer)
        tensor = response.outputs.add(name=name, datatype="FP64", shape=numbers.shape)
        if call.raw:
            response.raw_output_contents.append(numbers.astype("<f8", copy=False).tobytes())
        else:
            tensor.contents.fp64_contents.extend(numbers.tolist())
    parameters = response.parameters
    parameters["instance"].string_param = instance
    parameters["degraded"].bool_param = bool(answer.degraded_reason)
    if answer.degraded_reason:
        parameters["degraded_reason"].string_param = answer.degraded_reason
    for name, ids in answer.scores.unknown_entities.items():
        parameters[f"unknown_entities:{name}"].int64_param = len(ids)
    for name, count in answer.unknown_features.items():
        parameters[f"unknown_features:{name}"].int64_param = count
    return response


def metadata_to_proto(
    model: str, versions: Sequence[int], scoring: ScoringModel
) -> wire.ModelMetadataResponse:
    """Return what a version takes and gives, and which versions are loaded."""
    coordinates = scoring.coordinate_names
    return wire.ModelMetadataResponse(
        name=model,
        versions=[str(number) for number in versions],
        platform=PLATFORM,
        inputs=[_spec_to_proto(spec) for spec in signature.inputs_of(scoring)],
        outputs=[_spec_to_proto(spec) for spec in signature.outputs_of(coordinates)],
    )


def _spec_to_proto(spec: signature.TensorSpec) -> wire.ModelMetadataResponse.TensorMetadata:
    return wire.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)

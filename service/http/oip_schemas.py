"""The JSON of the Open Inference Protocol v2, with the parameters that Triton adds to it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Datatype = Literal["BYTES", "UINT8", "FP32"]
Size = Annotated[int, Field(ge=0, le=2**31 - 1)]
# A name that is known so that it can be refused: ignored, it would change what is answered.
NotOffered = Annotated[None, Field(description="There is no such thing with this server.")]
OutputName = Literal["probabilities", "logits"]


class Wire(BaseModel):
    """Strict about what it knows; what other servers' clients add besides is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class ServerMetadata(Wire):
    """What this server is, and which of the protocol's extensions it has."""

    name: str
    version: str
    extensions: list[str]


class Live(Wire):
    """The process answers."""

    live: bool = True


class Ready(Wire):
    """Requests would be served."""

    ready: bool = True


class TensorMetadata(Wire):
    """A tensor that a model takes or gives; -1 is the number of images."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(Wire):
    """A task. Of its inputs exactly one is sent, whichever suits the client."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(Wire):
    """A version that is served."""

    name: str
    version: str
    ready: bool = True


class InputParameters(Wire):
    """`binary_data_size`: so many bytes behind the JSON are this tensor's, instead of `data`."""

    binary_data_size: Size | None = None
    shared_memory_region: NotOffered = None


class InputTensor(Wire):
    """Images: `image` (BYTES [n]), `pixels` (UINT8 [n, H, W, 3]) or `tensor` (FP32 [n, 3, H, W]).

    In JSON, `data` is row-major, nested or flat; an element of BYTES is an encoded image in base64.
    """

    name: Literal["image", "pixels", "tensor"]
    datatype: Datatype
    shape: Annotated[list[Size], Field(min_length=1, max_length=8)]
    parameters: InputParameters = InputParameters()
    data: Annotated[list[Any] | None, Field(description="Absent where the data is binary.")] = None


class OutputParameters(Wire):
    """`classification`: the k likeliest classes as "score:index:label", instead of all scores."""

    classification: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    binary_data: bool | None = None
    shared_memory_region: NotOffered = None


class RequestedOutput(Wire):
    """An output that the client wants."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferParameters(Wire):
    """`timeout` is in microseconds; `binary_data_output` is for outputs that do not say."""

    timeout: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None
    binary_data_output: bool = False
    sequence_id: NotOffered | Literal[0] = None


class InferRequest(Wire):
    """Images in one input; without `outputs`, all of them are given."""

    id: Annotated[str, Field(max_length=256)] | None = None
    parameters: InferParameters = InferParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=2)] = []


class BinarySize(Wire):
    """So many bytes behind the JSON are this tensor's."""

    binary_data_size: int


class OutputTensor(Wire):
    """Scores [n, classes] as FP32, or [n, k] strings; row-major in `data`, or binary."""

    name: OutputName
    datatype: Datatype
    shape: list[int]
    parameters: BinarySize | None = None
    data: list[float] | list[str] | None = None


class InferResponse(Wire):
    """A task's answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class RepositoryRequest(Wire):
    """`ready`: list only what is in the engine."""

    ready: bool = False


class LoadParameters(Wire):
    """`unload_dependents`, which no task has; a model cannot be brought along: register it."""

    model_config = ConfigDict(extra="forbid")

    unload_dependents: bool = False


class LoadRequest(Wire):
    """Nothing has to be said."""

    parameters: LoadParameters = LoadParameters()


class RepositoryEntry(Wire):
    """A task: READY in the engine, LOADING, or UNAVAILABLE, which the first request changes."""

    name: str
    version: str | None
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class ErrorDocument(Wire):
    """An error; the text says what happened and how to mend it."""

    error: str

"""The ONNX engine: the frozen stages run in ONNX Runtime, from graphs exported once."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from adapters.backbone import StagedBackbone
from adapters.backbone.cut import Stage
from adapters.proof import DtypeName
from service.engines.torch_engine import TorchEngine
from service.errors import EngineUnavailable

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_IMAGES = "images"
_FEATURES = "features"


class OnnxEngine(TorchEngine):
    """See `service.engines.base.Engine`: stages in ONNX Runtime, prompts and heads in PyTorch.

    Args:
        backbone: Copied, so that the caller's stays as it is.
        capacity_bytes: The budget for adapters, reserved at once on the device.
        cache: Where exported graphs are kept, by the backbone's fingerprint.
        dtype: float32; ONNX Runtime has no bfloat16 convolutions.
        device: A torch device.

    Raises:
        EngineUnavailable: ONNX Runtime cannot run on the device or in the dtype, or the backbone
            cannot be exported.
    """

    name = "onnx"

    def __init__(
        self,
        backbone: StagedBackbone,
        *,
        capacity_bytes: int,
        cache: Path,
        dtype: DtypeName = "float32",
        device: str = "cpu",
    ) -> None:
        provider = _provider(dtype, device)
        super().__init__(backbone, capacity_bytes=capacity_bytes, dtype=dtype, device=device)
        graphs = cache / "onnx" / f"{self.spec.fingerprint}-{_versions()}"
        try:
            self._backbone.stages = _stages(backbone, graphs, provider, device)
        except OSError as error:
            raise EngineUnavailable(
                f"Exported graphs cannot be kept in {graphs} ({error}). Give the onnx engine a "
                "cache_dir that can be written to, or take the engine torch."
            ) from error


@dataclass(frozen=True, eq=False)
class _OnnxStage:
    """A stage as a session; `shape` is that of one image's features after it."""

    session: onnxruntime.InferenceSession
    shape: tuple[int, ...]
    device: torch.device

    def __call__(self, features: Tensor) -> Tensor:
        """Run it: both ends are torch's memory, so that nothing is copied."""
        features = features.contiguous()
        result = torch.empty(len(features), *self.shape, device=self.device)
        binding = self.session.io_binding()
        for bind, name, values in (
            (binding.bind_input, _IMAGES, features),
            (binding.bind_output, _FEATURES, result),
        ):
            bind(
                name=name,
                device_type=self.device.type,
                device_id=self.device.index or 0,
                element_type="float32",
                shape=tuple(values.shape),
                buffer_ptr=values.data_ptr(),
            )
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        self.session.run_with_iobinding(binding)
        return result


def _provider(dtype: DtypeName, device: str) -> str:
    provider = _PROVIDERS[torch.device(device).type]
    if dtype != "float32":
        raise EngineUnavailable("The onnx engine computes in float32. Take --dtype float32.")
    if provider not in onnxruntime.get_available_providers():
        raise EngineUnavailable(
            f"This ONNX Runtime has no {provider}. Install onnxruntime-gpu, or take another engine."
        )
    return provider


def _versions() -> str:
    """Changes with what makes the graphs and with what runs them."""
    versions = f"{torch.__version__} {onnxruntime.__version__}"
    return hashlib.sha256(versions.encode()).hexdigest()[:12]


@torch.no_grad()
def _stages(
    backbone: StagedBackbone, graphs: Path, provider: str, device: str
) -> tuple[Stage, ...]:
    size = backbone.spec.preprocessing
    # Two images: a size of one would be taken for a constant.
    features = torch.zeros(2, 3, size.height, size.width)
    stages = []
    for number, stage in enumerate(backbone.stages):
        path = graphs / f"{number}.onnx"
        if not path.exists():
            _export(stage, features, path)
        features = stage(features).contiguous()
        session = _session(path, provider)
        stages.append(_OnnxStage(session, tuple(features.shape[1:]), torch.device(device)))
    return tuple(stages)


class _Exported(nn.Module):
    """A stage under a name for its argument."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def forward(self, images: Tensor) -> Tensor:
        return self._stage(images)


def _export(stage: Stage, example: Tensor, path: Path) -> None:
    """Write a stage's graph, for any number of images; whole or not at all."""
    try:
        program = torch.onnx.export(
            _Exported(stage).eval(),
            (example,),
            input_names=[_IMAGES],
            output_names=[_FEATURES],
            dynamic_shapes={_IMAGES: {0: torch.export.Dim("count")}},
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise EngineUnavailable(
            f"The backbone cannot be exported to ONNX ({error}). Take another engine."
        ) from error
    assert program is not None  # noqa: S101  the new exporter returns one
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder, path.name)
        program.save(written, external_data=False)
        written.replace(path)


def _session(path: Path, provider: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait for each other in a loop would take the cores from decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])

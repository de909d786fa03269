"""Where a run happens: device, precision, processes, and what memory it took."""

import os
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.config import TrainConfig
from training.errors import InvalidConfig, OutOfMemory
from training.evaluate import Precision

_TRANSFORMERS = ("vit", "swin")
_DEPTHWISE = ("efficientnet",)
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Machine:
    """This process's share of the hardware.

    Several processes, started by `torchrun` or `accelerate launch`, are Hugging Face Accelerate's
    business: it gives each its device and averages their gradients.

    Attributes:
        device: that the model is on.
        precision: of the forward pass.
        channels_last: whether convolutions run faster with the channels innermost.
        workers: processes that decode images.
    """

    device: torch.device
    precision: Precision
    channels_last: bool
    workers: int
    accelerator: Accelerator = field(repr=False)

    @property
    def rank(self) -> int:
        """The number of this process; 0 writes the files."""
        return self.accelerator.process_index

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return self.accelerator.num_processes

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, in the memory format that suits it."""
        model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def share(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes; alone, the model itself."""
        return self.accelerator.prepare_model(model) if self.ranks > 1 else model

    def autocast(self) -> AbstractContextManager[None]:
        """The forward pass in the machine's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def gradients(self, model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward: gradients are exchanged with the `last` part of a batch."""
        return nullcontext() if last or self.ranks == 1 else self.accelerator.no_sync(model)

    def agree(self, wish: bool) -> bool:  # noqa: FBT001  a vote
        """Whether any process wishes so."""
        return self.total([float(wish)])[0] > 0

    def total(self, values: list[float]) -> list[float]:
        """The sums of numbers over all processes."""
        if self.ranks == 1:
            return values
        sums: Tensor = self.accelerator.reduce(torch.tensor(values, device=self.device))
        return sums.tolist()

    def peak_memory_mib(self) -> float:
        """The most memory at a time: of the CUDA device, else of this process, in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def find_machine(config: TrainConfig, family: str) -> Machine:
    """The machine for a run on a backbone of `family`.

    Raises:
        InvalidConfig: there is no such device.
    """
    device = find_device(config.device)
    launched_together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(
        device_placement=False, cpu=launched_together and device.type == "cpu"
    )
    if launched_together:
        device = accelerator.device
    fastest: Precision = "bf16" if _is_bf16_faster(device, family) else "fp32"
    return Machine(
        device=device,
        precision=fastest if config.precision == "auto" else config.precision,
        channels_last=family not in _TRANSFORMERS and device.type in ("cpu", "cuda"),
        workers=_workers(device) if config.workers is None else config.workers,
        accelerator=accelerator,
    )


def find_device(name: str) -> torch.device:
    """The device that a flag names; "auto" is the first GPU, or the CPU.

    Raises:
        InvalidConfig: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidConfig(
            f"The device {name!r} cannot be used ({str(error).partition(chr(10))[0]}). Pass "
            "--device auto, cpu, or cuda:N of one that torch sees."
        ) from error
    return device


def _is_bf16_faster(device: torch.device, family: str) -> bool:
    """Measured on a CPU with AVX-512 BF16: 2.4x on a ViT, 2x on a ResNet, 0.7x on a MobileNet."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16")) and family not in _DEPTHWISE
    return False


def _workers(device: torch.device) -> int:
    """As many decoding processes as there are cores that the training itself leaves idle."""
    cores = len(os.sched_getaffinity(0))
    idle = cores if device.type != "cpu" else cores - torch.get_num_threads()
    return max(0, min(_MOST_WORKERS, idle))


@contextmanager
def memory_errors(config: TrainConfig) -> Iterator[None]:
    """Say how to make a batch smaller when it does not fit.

    Raises:
        OutOfMemory: the device or the host has no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_memory(error):
            raise
        parts = 2 * config.accumulation
        raise OutOfMemory(
            f"A batch of {config.batch_size} images in {config.accumulation} part(s) does not fit "
            f"into memory. Take --accumulation {parts}, which trains the same in smaller parts; "
            f"or --grad-checkpointing; or --batch-size {max(1, config.batch_size // 2)}."
        ) from error


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator raises a plain RuntimeError.
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)

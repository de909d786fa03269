"""The reference engine: PyTorch, on a CPU or a GPU, in float32 or bfloat16."""

import copy
from collections.abc import Iterable
from itertools import count

import torch
from torch import Tensor

from adapters.backbone import StagedBackbone
from adapters.preprocess import normalize
from adapters.proof import DtypeName
from service.engines.bank import AdapterBank, Resident
from service.engines.base import EngineBatch, Slot
from service.engines.folded import TORCH_DTYPES, FoldedAdapter
from service.engines.segments import MixedPass, arrange
from service.errors import UnknownSlot


class TorchEngine:
    """See `service.engines.base.Engine`.

    Args:
        backbone: Copied, so that the caller's stays as it is.
        capacity_bytes: The budget for adapters, reserved at once on the device.
        dtype: Of backbone, prompts and heads.
        device: A torch device.
        compile_stages: Let torch.compile make each stage faster; the first batches pay for it, and
            the engine's name is "compiled". (On a CPU `CompiledEngine` is faster.)
    """

    name = "torch"

    def __init__(
        self,
        backbone: StagedBackbone,
        *,
        capacity_bytes: int,
        dtype: DtypeName = "float32",
        device: str = "cpu",
        compile_stages: bool = False,
    ) -> None:
        self.dtype: DtypeName = dtype
        self.device = device
        self.spec = backbone.spec
        # For the whole process: TF32 keeps 10 bits of a float32's 23.
        # (By these names: torch.export stops where only the newer ones are set.)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._dtype = TORCH_DTYPES[dtype]
        self._backbone = copy.deepcopy(backbone).to(device, self._dtype)
        self._backbone.to(memory_format=torch.channels_last)
        if compile_stages:
            self.name = "compiled"
            self._backbone.stages = tuple(torch.compile(s) for s in self._backbone.stages)
        self._bank = AdapterBank(backbone.spec, capacity_bytes, self._dtype, device)
        self._residents: dict[Slot, Resident] = {}
        self._numbers = count()

    @property
    def capacity_bytes(self) -> int:
        """The budget for adapters."""
        return self._bank.capacity_bytes

    @property
    def used_bytes(self) -> int:
        """The part of the budget that loaded adapters hold."""
        return self._bank.used_bytes

    def adapter_bytes(self, adapter: FoldedAdapter) -> int:
        """What the adapter takes of the budget."""
        return self._bank.adapter_bytes(adapter)

    def load(self, adapter: FoldedAdapter) -> Slot:
        """Copy an adapter into the reserved memory.

        Raises:
            EngineFull: there is no room in one piece; unload something and try again.
            InvalidSpec: the adapter was folded for another architecture.
        """
        resident = self._bank.add(adapter)
        slot = Slot(next(self._numbers))
        self._residents[slot] = resident
        return slot

    def unload(self, slot: Slot) -> None:
        """Free a slot; no running batch may name it.

        Raises:
            UnknownSlot: it is not loaded.
        """
        self._bank.remove(self._resident(slot))
        del self._residents[slot]

    @torch.inference_mode()
    def run(self, batch: EngineBatch) -> list[Tensor]:
        """The logits of each segment, float32 [rows, classes] on the host.

        Raises:
            UnknownSlot: a segment's slot is not loaded.
            ValueError: the images are not of the backbone's input size.
        """
        residents = [self._resident(segment.slot) for segment in batch.segments]
        mixed = MixedPass(arrange(batch, residents), self._bank, self._backbone.layout)
        return mixed.logits(self._backbone.features(self._input(batch), mixed.at_site))

    @torch.inference_mode()
    def features(self, images_UHWC: Tensor) -> Tensor:
        """The pooled features [U, feature_dim] of uint8 images without any adapter, on the host.

        Raises:
            ValueError: the images are not of the backbone's input size.
        """
        pixels = self._pixels(images_UHWC)
        return self._backbone.features(pixels, lambda _, features: features).cpu()

    def warm_up(self, batch_sizes: Iterable[int]) -> None:
        """Run the backbone once for each number of images."""
        size = self.spec.preprocessing
        for images in batch_sizes:
            self.features(torch.zeros(images, size.height, size.width, 3, dtype=torch.uint8))

    def _resident(self, slot: Slot) -> Resident:
        try:
            return self._residents[slot]
        except KeyError:
            raise UnknownSlot(f"{slot} is not loaded. Load its adapter again.") from None

    def _input(self, batch: EngineBatch) -> Tensor:
        """All images of a batch as the backbone takes them."""
        if batch.normalised is None:
            return self._pixels(batch.images)
        self._require_size(batch.normalised.shape[2:])
        more_VCHW = batch.normalised.to(self.device, self._dtype)
        return torch.cat([self._pixels(batch.images), more_VCHW])

    def _pixels(self, images_UHWC: Tensor) -> Tensor:
        self._require_size(images_UHWC.shape[1:3])
        pixels = normalize(images_UHWC.to(self.device), self.spec.preprocessing)
        return pixels.to(self._dtype)

    def _require_size(self, size: torch.Size) -> None:
        wanted = self.spec.preprocessing.height, self.spec.preprocessing.width
        if size != wanted:
            raise ValueError(
                f"The images are {[*size]} pixels, and {self.spec.name} takes {[*wanted]}. Use "
                "its evaluation transform."
            )

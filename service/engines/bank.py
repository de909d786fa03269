"""The memory that adapters lie in on the device: one buffer, reserved once, read through views."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from adapters.errors import InvalidSpec
from adapters.manifest import Architecture, PromptSpec
from service.engines.allocator import SlotAllocator, Span
from service.engines.folded import FoldedAdapter, PromptLayout
from service.errors import EngineFull


@dataclass(frozen=True, eq=False)
class Resident:
    """An adapter in the bank.

    Attributes:
        layout: of its prompts; the same object for all adapters of a spec.
        slot: row of the bank's prompts that holds its own; 0 where it has none.
        head_rows: int32 [classes] on the device, the rows of the bank's heads that hold its own.
        spans: of the buffer that it holds.
    """

    layout: PromptLayout
    slot: int
    head_rows: Tensor
    spans: tuple[Span, ...]


class AdapterBank:
    """Prompts of any spec and heads of any size in one buffer of at most `capacity_bytes`.

    Adding writes every value of what it takes, so nothing of an earlier adapter can be read.
    Adding and removing are safe from any thread, and touch nothing that another adapter holds.
    """

    def __init__(
        self, architecture: Architecture, capacity_bytes: int, dtype: torch.dtype, device: str
    ) -> None:
        self._architecture = architecture
        self._buffer = torch.empty(capacity_bytes // dtype.itemsize, dtype=dtype, device=device)
        self._allocator = SlotAllocator(len(self._buffer))
        self._layouts: dict[PromptSpec, PromptLayout] = {}
        self._lock = Lock()
        # Copies on a stream of their own wait for no batch, and let no batch wait.
        self._stream: torch.cuda.Stream | None = None
        if self._buffer.is_cuda:
            self._stream = torch.cuda.Stream(self._buffer.device)  # type: ignore[no-untyped-call]

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the buffer."""
        return self._buffer.nbytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the buffer that residents hold."""
        with self._lock:
            return self._allocator.used * self._buffer.itemsize

    @property
    def heads(self) -> Tensor:
        """The buffer as rows of heads [rows, feature_dim + 1]: a class's weights, then its bias."""
        width = self._head_width
        return self._buffer[len(self._buffer) % width :].view(-1, width)

    def prompts(self, layout: PromptLayout) -> Tensor:
        """The buffer as prompts of one layout [slots, layout.size]."""
        slots = len(self._buffer) // layout.size
        return self._buffer[: slots * layout.size].view(slots, layout.size)

    @property
    def buffer(self) -> Tensor:
        """All of the memory; `Resident.slot` times its layout's size is where its prompts begin."""
        return self._buffer

    def adapter_bytes(self, adapter: FoldedAdapter) -> int:
        """Bytes of the buffer that the adapter would hold."""
        values = len(adapter.prompts) + len(adapter.head_bias) * self._head_width
        return values * self._buffer.itemsize

    def add(self, adapter: FoldedAdapter) -> Resident:
        """Copy an adapter in; it can be read once this returns.

        Raises:
            EngineFull: there is no room in one piece.
            InvalidSpec: the adapter was folded for another architecture.
        """
        layout = self.layout_of(adapter)
        slot, rows = self._allocate(layout.size, len(adapter.head_bias))
        try:
            with self._copying():
                return self._fill(adapter, layout, slot, rows)
        except BaseException:
            self._free((*slot, *rows))
            raise

    def layout_of(self, adapter: FoldedAdapter) -> PromptLayout:
        """Where the adapter's prompts lie in its buffer: one object for all adapters of a spec.

        Raises:
            InvalidSpec: the adapter was folded for another architecture.
        """
        layout = self._layout(adapter.spec)
        self._check(adapter, layout)
        return layout

    def remove(self, resident: Resident) -> None:
        """Free what the resident holds; no batch may be reading it."""
        self._free(resident.spans)

    @property
    def _head_width(self) -> int:
        return self._architecture.feature_dim + 1

    def _layout(self, spec: PromptSpec) -> PromptLayout:
        with self._lock:
            if spec not in self._layouts:
                self._layouts[spec] = PromptLayout(spec, self._architecture)
            return self._layouts[spec]

    def _check(self, adapter: FoldedAdapter, layout: PromptLayout) -> None:
        given = (len(adapter.prompts), adapter.head_weight.shape[1])
        wanted = (layout.size, self._architecture.feature_dim)
        if given != wanted:
            raise InvalidSpec(
                f"The adapter has {given} prompt values and features, and {wanted} are those of "
                f"{self._architecture.name}. Fold one that was made for it."
            )

    def _allocate(self, size: int, classes: int) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        with self._lock:
            slot = (self._allocator.take_slot(size),) if size else ()
            try:
                return slot, self._allocator.take_rows(self._head_width, classes)
            except EngineFull:
                for span in slot:
                    self._allocator.give_back(span)
                raise

    def _free(self, spans: tuple[Span, ...]) -> None:
        with self._lock:
            for span in spans:
                self._allocator.give_back(span)

    def _copying(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    @torch.inference_mode()
    def _fill(
        self,
        adapter: FoldedAdapter,
        layout: PromptLayout,
        slot: tuple[Span, ...],
        rows: tuple[Span, ...],
    ) -> Resident:
        dtype, device = self._buffer.dtype, self._buffer.device
        for span in slot:
            self._buffer[span.start : span.stop].copy_(adapter.prompts.to(dtype))
        head_rows = self._row_numbers(rows).to(device)
        head = torch.cat((adapter.head_weight, adapter.head_bias[:, None]), dim=1)
        self.heads.index_copy_(0, head_rows.long(), head.to(dtype).to(device))
        if self._stream is not None:
            self._stream.synchronize()
        number = slot[0].start // layout.size if slot else 0
        return Resident(layout, number, head_rows, (*slot, *rows))

    def _row_numbers(self, spans: tuple[Span, ...]) -> Tensor:
        width = self._head_width
        offset = len(self._buffer) % width
        runs = [((s.start - offset) // width, (s.stop - offset) // width) for s in spans]
        return torch.cat([torch.arange(*run, dtype=torch.int32) for run in runs])

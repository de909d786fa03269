"""What a report tells about a run: data only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from training.data.samples import Sample
from training.evaluate import Evaluation

# A row of the history. It has `epoch` (from 1), and, where they were measured, `train_loss`,
# `val_loss`, `val_top1` (0 to 1), `lr`, `images_per_s`, `seconds` and `peak_memory_mib`.
EpochRow = Mapping[str, float | None]


@dataclass(frozen=True)
class RunReport:
    """One finished run.

    Attributes:
        title: the report's heading.
        backbone: timm's name.
        weights: as the `--weights` option takes it.
        method: as the `--method` option takes it.
        data: the image set as the command line names it.
        config: the settings worth telling, by name.
        class_names: in the order of the logits.
        train_counts: training images of each class.
        val_images: how many images validation had.
        history: the epochs, in order.
        best_epoch: the epoch whose weights were chosen, counted from 1.
        evaluation: of the chosen weights on the test images.
        test_samples: the test images, in the order of `test_logits`.
        test_logits: float32 [test images, classes].
        trained_parameters: how many the method trains.
        total_parameters: of backbone, prompts and head.
        seconds: training took.
        peak_memory_mib: the most memory the run held at a time; None if not measured.
        adapter: the file name of the servable adapter in the run directory, None where there is
            none.
        refusal: why there is no adapter, where the method would have made one.
        data_root: where the files of a timm name lie, as the `--data-root` option takes it.
        notes: what else a reader must know, a sentence each.
    """

    title: str
    backbone: str
    weights: str
    method: str
    data: str
    config: Mapping[str, object]
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    val_images: int
    history: Sequence[EpochRow]
    best_epoch: int
    evaluation: Evaluation
    test_samples: Sequence[Sample] = field(repr=False)
    test_logits: Tensor = field(repr=False, compare=False)
    trained_parameters: int
    total_parameters: int
    seconds: float
    peak_memory_mib: float | None = None
    adapter: str | None = "adapter.safetensors"
    refusal: str | None = None
    data_root: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> EpochRow | None:
        """The row of the best epoch; None where validation did not choose it."""
        chosen = (row for row in self.history if row["epoch"] == self.best_epoch)
        return next((row for row in chosen if row.get("val_top1") is not None), None)

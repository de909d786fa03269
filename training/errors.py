"""The tree of errors that training can end in.

TrainingError
├── DataError
│   ├── UnknownDataset         neither a folder, a known archive, nor a known prefix
│   ├── MissingPackage         a dataset prefix needs a package that is not installed
│   ├── DatasetUnavailable     timm's factory could not open the dataset
│   ├── DatasetTooLarge        what must be held in memory is over the limit
│   ├── ArchiveError
│   │   ├── UnsafeArchive      more or stranger members than an image set has
│   │   └── BrokenArchive      the archive ends early or is damaged
│   ├── LayoutError
│   │   ├── EmptyDataset       no image in a class folder anywhere
│   │   ├── EmptyClass         a class of the training split has no image
│   │   ├── OneClassOnly       nothing to tell apart
│   │   ├── InvalidClassNames  more of them, or stranger ones, than an adapter can carry
│   │   ├── UnknownClass       another split has a class that the training split lacks
│   │   ├── AmbiguousSplits    two folders for the same split
│   │   ├── TrainSplitMissing  a test or validation split without a training split
│   │   └── TestSplitMissing   a training split without a test split
│   ├── UnreadableImages       broken images, by name and number
│   └── ScenarioError
│       ├── TooFewImages       a class has fewer images than the scenario takes
│       └── InvalidClassMap    the class list names what is not there
├── UnknownCorruption          no such kind or severity of corruption
├── InvalidConfig              options that contradict themselves, or a file that holds none
├── RunError
│   ├── RunExists              the directory holds a run, or something else, already
│   ├── RunBusy                another process trains in the directory
│   ├── NothingToResume        the directory holds no unfinished run
│   ├── OtherRun               the options or images are not those of the run to be resumed
│   ├── DamagedState           the saved state of a run cannot be read
│   ├── RunNotWritten          a file of the run cannot be written, as on a full disk
│   └── NotServable            a baseline, which cannot be published
└── LoopError
    ├── TrainingDiverged       the loss is no longer a number
    ├── OutOfMemory            a batch does not fit
    └── Interrupted            stopped on request, with a resumable state saved

Every message says what happened and how to mend it.
"""


class TrainingError(Exception):
    """Root of everything that `training` raises on purpose."""


class DataError(TrainingError):
    """The images to train on could not be had."""


class UnknownDataset(DataError):
    """Neither a folder, an archive of a known kind, nor a known dataset prefix."""


class MissingPackage(DataError):
    """A dataset prefix needs a package that is not installed."""


class DatasetUnavailable(DataError):
    """timm's factory could not open the dataset."""


class DatasetTooLarge(DataError):
    """What must be held in memory is over the limit."""


class ArchiveError(DataError):
    """An archive was refused."""


class UnsafeArchive(ArchiveError):
    """More or stranger members than an image set has."""


class BrokenArchive(ArchiveError):
    """The archive ends early or is damaged."""


class LayoutError(DataError):
    """The folders do not make a labelled image set."""


class EmptyDataset(LayoutError):
    """There is no image in a class folder anywhere."""


class EmptyClass(LayoutError):
    """A class of the training split has no image."""


class OneClassOnly(LayoutError):
    """There is nothing to tell apart."""


class InvalidClassNames(LayoutError):
    """More class names, or stranger ones, than an adapter can carry as labels."""


class UnknownClass(LayoutError):
    """Another split has a class that the training split lacks."""


class AmbiguousSplits(LayoutError):
    """Two folders for the same split."""


class TrainSplitMissing(LayoutError):
    """There is a test or validation split but no training split."""


class TestSplitMissing(LayoutError):
    """There is a training split but no test split."""

    __test__ = False  # pytest collects classes by this prefix


class UnreadableImages(DataError):
    """Some images cannot be decoded."""


class ScenarioError(DataError):
    """A scenario cannot be made from the data."""


class TooFewImages(ScenarioError):
    """A class has fewer images than the scenario or the split takes."""


class InvalidClassMap(ScenarioError):
    """A class list names what is not there, or cannot be read."""


class UnknownCorruption(TrainingError):
    """There is no such kind or severity of corruption."""


class InvalidConfig(TrainingError):
    """Options that contradict themselves, or a file that holds none."""


class RunError(TrainingError):
    """A run directory refused or failed."""


class RunExists(RunError):
    """The directory holds a run, or something else, already."""


class RunBusy(RunError):
    """Another process trains in the directory."""


class NothingToResume(RunError):
    """The directory holds no unfinished run."""


class OtherRun(RunError):
    """The options or images are not those of the run to be resumed."""


class DamagedState(RunError):
    """The saved state of a run cannot be read."""


class RunNotWritten(RunError):
    """A file of the run cannot be written; nothing half-written is left."""


class NotServable(RunError):
    """A baseline, which cannot be published."""


class LoopError(TrainingError):
    """Training stopped before its end."""


class TrainingDiverged(LoopError):
    """The loss is no longer a number."""


class OutOfMemory(LoopError):
    """A batch does not fit into memory."""


class Interrupted(LoopError):
    """Training was stopped on request; its state is saved."""

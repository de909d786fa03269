"""The golden proof: inputs that anyone can make again, and the logits that training got for them.

Replaying it shows that preprocessing, prompts, folding and engine do here what they did in
training. It is not a check of the weights: the backbone's fingerprint and the checkpoint's digest
are.
"""

import copy
import hashlib
import io
from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adapters.errors import ProofFailed, ProofInsensitive
from adapters.manifest import GoldenInputs, GoldenProof, Preprocessing, Tolerance
from adapters.model import AdapterModel
from adapters.preprocess import EvalTransform, decode_pixels, normalize
from adapters.prompt import FoldedPrompt

DtypeName = Literal["float32", "bfloat16"]
_DTYPES: dict[DtypeName, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_TINTS = ((96, 32, 0), (0, 32, 96))
_SEEDS_TRIED = 4
# An engine's own rounding may lie this many times further from the reference than ours does.
_HEADROOM = 2.0
# No engine is asked to be closer than this, relative to the largest logit.
_FLOOR = 1e-4
_IDLE = "The prompts have hardly learned anything yet"
_BLIND = "The model hardly reacts to its images"


def golden_images(inputs: GoldenInputs) -> Iterator[NDArray[np.uint8]]:
    """The golden inputs as RGB pictures [height, width, 3], one after the other.

    Coloured tiles with fine noise under a strong tint, made by integer arithmetic from a SHAKE-256
    stream, so that every platform and library version makes the same bytes. The tints make the
    order of the channels matter: orange, blue, orange, ...
    """
    for index, (height, width) in enumerate(inputs.sizes):
        name = f"protuning golden 1 {inputs.seed} {index}"
        yield _tiles(name, height, width, _TINTS[index % 2])


def _tiles(name: str, height: int, width: int, tint: tuple[int, int, int]) -> NDArray[np.uint8]:
    rows, columns = 6, 5
    count = rows * columns * 3
    stream = hashlib.shake_256(name.encode()).digest(count + height * width * 3)
    values = np.frombuffer(stream, dtype=np.uint8)
    colours = values[:count].reshape(rows, columns, 3)
    tile_of_row = np.arange(height) * rows // height
    tile_of_column = np.arange(width) * columns // width
    noise = values[count:].reshape(height, width, 3) >> 3
    # At most 127 of colour, 96 of tint and 31 of noise: one byte.
    return (colours[tile_of_row][:, tile_of_column] >> 1) + noise + np.array(tint, np.uint8)


def golden_batch(inputs: GoldenInputs, preprocessing: Preprocessing) -> Tensor:
    """The golden inputs through the real decoder and transform: uint8 [n, H, W, 3]."""
    transform = EvalTransform(preprocessing)
    pictures = (transform(decode_pixels(_png(image))) for image in golden_images(inputs))
    return torch.from_numpy(np.stack([*pictures]))


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def check_logits(proof: GoldenProof, golden: Tensor, logits: Tensor, dtype: DtypeName) -> None:
    """Hold replayed logits [n, classes] to the golden ones.

    Raises:
        ProofFailed: they lie further apart than the dtype's tolerance, or one is no number.
    """
    moved, allowed = distance(golden, logits), getattr(proof.tolerance, dtype)
    if not moved <= allowed:  # written so that NaN fails
        raise ProofFailed(
            f"Replaying the golden inputs in {dtype} gave logits {moved:.3g} off; "
            f"{allowed:.3g} is allowed. The preprocessing, the backbone or the "
            "engine differs from training's. Compare the library versions in the manifest, or "
            "train the adapter again here."
        )


def make_proof(model: AdapterModel) -> tuple[GoldenProof, Tensor]:
    """Record the golden proof of a trained model that is on the CPU.

    The tolerances are measured, in each dtype, on prompts folded as an engine folds them. A proof
    counts only if, in each dtype, wrong mean and std, BGR order and dropped prompts all fail it;
    in float32 a single dropped site must fail too.

    Returns:
        The proof and the golden logits, float32 [n, classes].

    Raises:
        ProofInsensitive: one of these mistakes would go unnoticed.
    """
    failure = ProofInsensitive("unreachable")
    for seed in range(_SEEDS_TRIED):
        try:
            return _prove(model, seed)
        except ProofInsensitive as error:
            failure = error
    raise failure


def _prove(model: AdapterModel, seed: int) -> tuple[GoldenProof, Tensor]:
    preprocessing = model.backbone.spec.preprocessing
    inputs = GoldenInputs(seed=seed, sizes=_sizes(preprocessing))
    pixels = golden_batch(inputs, preprocessing)
    golden = model.predict(pixels).clone()
    floor = _FLOOR * max(1.0, golden.abs().max().item())
    tolerance: dict[DtypeName, float] = {}
    for dtype in _DTYPES:
        engine = _FoldedEngine(model, dtype)
        right = engine.run(normalize(pixels, preprocessing))
        tolerance[dtype] = max(floor, _HEADROOM * distance(golden, right))
        for why, mistake, logits in _mistakes(engine, pixels):
            _require_noticed(why, mistake, distance(golden, logits), dtype, tolerance[dtype])
    return GoldenProof(**inputs.model_dump(), tolerance=Tolerance(**tolerance)), golden


def _require_noticed(why: str, mistake: str, moved: float, dtype: str, tolerance: float) -> None:
    if moved <= tolerance:
        raise ProofInsensitive(
            f"{why}. A server could not tell whether it runs this adapter rightly: {mistake} "
            f"would change the logits by {moved:.3g}, and rounding in {dtype} alone may change "
            f"them by {tolerance:.3g}. It has to be trained longer."
        )


def _sizes(preprocessing: Preprocessing) -> tuple[tuple[int, int], ...]:
    """Wide, tall, smaller and larger than the backbone's input, and never equal to it."""
    height, width = preprocessing.height, preprocessing.width
    sevenths = ((10, 8), (6, 9), (9, 6), (12, 12))
    return tuple((height * a // 7 + 1, width * b // 7 + 1) for a, b in sevenths)


class _FoldedEngine:
    """The model as an engine runs it: prompts folded in float32, then everything cast."""

    def __init__(self, model: AdapterModel, dtype: DtypeName) -> None:
        self.dtype = dtype
        self.preprocessing = model.backbone.spec.preprocessing
        self.prompts = {
            site: [
                FoldedPrompt(*(values.to(_DTYPES[dtype]) for values in block)) for block in blocks
            ]
            for site, blocks in model.adapter.fold().items()
        }
        self._model = copy.deepcopy(model).to(_DTYPES[dtype]).eval()

    @torch.inference_mode()
    def run(self, images_BCHW: Tensor, dropped: Collection[str] = ()) -> Tensor:
        """Float32 logits of normalised images, without the prompts at the `dropped` sites."""
        spec, layout = self._model.adapter.prompt_spec, self._model.backbone.layout

        def blend(site: str, features: Tensor) -> Tensor:
            for block in self.prompts.get(site, ()) if site not in dropped else ():
                prompt_BCHW = block.prompt(layout.read(features), spec.activation)
                features = layout.blend(features, prompt_BCHW, spec.class_token)
            return features

        features_BF = self._model.backbone.features(images_BCHW.to(_DTYPES[self.dtype]), blend)
        return self._model.adapter.head(features_BF).float()


def _mistakes(engine: _FoldedEngine, pixels: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Why a wrong pipeline may go unnoticed, the pipeline, and the logits it gives."""
    preprocessing = engine.preprocessing
    wrong = _IMAGENET if preprocessing.mean == _HALF["mean"] else _HALF
    wrong_preprocessing = preprocessing.model_copy(update=wrong)
    yield _BLIND, "wrong mean and std", engine.run(normalize(pixels, wrong_preprocessing))
    yield _BLIND, "BGR order", engine.run(normalize(pixels.flip(-1), preprocessing))
    images_BCHW = normalize(pixels, preprocessing)
    if engine.prompts:
        yield _IDLE, "dropped prompts", engine.run(images_BCHW, dropped=engine.prompts)
    if engine.dtype == "float32":
        for site in engine.prompts:
            why = f"The prompts at {site} have hardly learned anything yet"
            yield why, f"a dropped prompt at {site}", engine.run(images_BCHW, dropped=[site])


def distance(golden: Tensor, logits: Tensor) -> float:
    """The root mean square difference of two sets of logits.

    A mistake moves all logits and rounding each by chance, so the mean tells them apart better
    than the largest difference does.
    """
    return (golden.float() - logits.float()).square().mean().sqrt().item()

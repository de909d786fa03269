"""Figures against slow sums, logits against one image at a time, adapters as served."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.errors import WrongBackbone
from adapters.manifest import Preprocessing
from adapters.model import AdapterModel
from adapters.preprocess import EvalTransform, decode
from tests import makers
from training.corruptions import Corruption
from training.data.samples import Sample
from training.errors import EmptyDataset, InvalidClassMap, UnknownClass, UnknownCorruption
from training.evaluate import (
    evaluate_adapter,
    evaluate_corruptions,
    evaluate_logits,
    open_adapter_task,
    predict_logits,
)


def sample(number: int, label: int = 0) -> Sample:
    """A picture of its own, as a data set gives it."""
    data = makers.encode(makers.picture(48 + number, 64, seed=number))
    return Sample(f"{number}.png", label, partial(bytes, data))


@pytest.fixture(scope="module")
def model() -> AdapterModel:
    """A randomised adapter of 4 classes on a small backbone."""
    return makers.model()


@pytest.fixture(scope="module")
def preprocessing(model: AdapterModel) -> Preprocessing:
    """Of the small backbone."""
    return model.backbone.spec.preprocessing


def served(model: AdapterModel, sample: Sample) -> Tensor:
    """The slow path of serving: one image decoded, cropped and predicted, logits [classes]."""
    pixels = EvalTransform(model.backbone.spec.preprocessing)(decode(sample.read()))
    return model.predict(torch.from_numpy(pixels)[None])[0]


@pytest.mark.parametrize("classes", [2, 5, 9])
def test_figures_equal_slow_sums(classes: int) -> None:
    """Top-1, top-5, recalls, confusion and groups, counted image by image."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(60, classes, generator=generator)
    labels = torch.randint(1, classes, (60,), generator=generator)  # class 0 has no image
    counts = [(500, 100, 20, 19, 101)[label % 5] for label in range(classes)]
    result = evaluate_logits(logits, labels, classes=classes, train_counts=counts)

    def right(chosen: Callable[[int], bool]) -> float | None:
        rows = [i for i in range(60) if chosen(int(labels[i]))]
        hits = [max(range(classes), key=logits[i].tolist().__getitem__) == labels[i] for i in rows]
        return sum(map(int, hits)) / len(rows) if rows else None

    ranked = [sorted(range(classes), key=lambda c: -logits[i, c].item())[:5] for i in range(60)]
    assert result.images == 60
    assert result.top1 == pytest.approx(right(lambda _: True))
    assert result.top5 == pytest.approx(sum(int(labels[i]) in ranked[i] for i in range(60)) / 60)
    assert result.per_class == tuple(right(lambda y, c=c: y == c) for c in range(classes))
    for truth in range(classes):
        for answer in range(classes):
            met = [i for i in range(60) if labels[i] == truth and ranked[i][0] == answer]
            assert result.confusion[truth, answer] == len(met)
    assert result.groups == {
        "many": right(lambda y: counts[y] > 100),
        "medium": right(lambda y: 20 <= counts[y] <= 100),
        "few": right(lambda y: counts[y] < 20),
    }
    probabilities = logits.double().softmax(1)
    assert result.loss == pytest.approx(
        -sum(probabilities[i, labels[i]].log().item() for i in range(60)) / 60, rel=1e-5
    )


def test_no_training_counts_no_groups() -> None:
    """An outside set is measured without shot groups."""
    assert evaluate_logits(torch.eye(3), torch.arange(3), classes=3).groups == {}


def test_equal_logits_give_the_lower_class() -> None:
    """A model that tells nothing apart earns no top-5 by ties."""
    result = evaluate_logits(torch.zeros(100, 100), torch.arange(100), classes=100)
    assert result.top1 == 0.01
    assert result.top5 == 0.05


@pytest.mark.parametrize("options", [{"batch_size": 64}, {"batch_size": 3}, {"workers": 1}])
def test_logits_equal_those_of_single_images(
    model: AdapterModel, preprocessing: Preprocessing, options: Mapping[str, int]
) -> None:
    """In order, whatever the batches and whoever decodes."""
    samples = [sample(number, number % 4) for number in range(7)]
    logits, labels = predict_logits(model, samples, preprocessing, **options)
    torch.testing.assert_close(logits, torch.stack([served(model, each) for each in samples]))
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert (logits.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_mode_comes_back_and_statistics_stay(preprocessing: Preprocessing) -> None:
    """A model in training is measured in eval mode, and is left in training."""
    model = makers.model(seed=5)
    expected = served(model, sample(0))
    model.train()
    logits, _ = predict_logits(model, [sample(0)] * 2, preprocessing)
    assert model.training
    assert model.adapter.training
    torch.testing.assert_close(logits[0], expected)


def test_progress_counts_images(model: AdapterModel, preprocessing: Preprocessing) -> None:
    """After every pass, up to all of them."""
    seen: list[tuple[int, int]] = []
    predict_logits(
        model,
        [sample(0)] * 5,
        preprocessing,
        batch_size=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_bf16_rounds_and_stays_near(model: AdapterModel, preprocessing: Preprocessing) -> None:
    """Autocast is on: other logits than in float32, but nearly the same."""
    samples = [sample(number) for number in range(3)]
    exact, _ = predict_logits(model, samples, preprocessing)
    rounded, _ = predict_logits(model, samples, preprocessing, precision="bf16")
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.1 * exact.abs().max()


def test_corruption_comes_before_the_transform(
    model: AdapterModel, preprocessing: Preprocessing
) -> None:
    """The decoded image is distorted under its own name."""
    fog = Corruption("fog", 5)
    logits, _ = predict_logits(model, [sample(1)], preprocessing, corruption=fog)
    distorted = fog(decode(sample(1).read()), "1.png")
    again = Sample("again", 0, partial(bytes, makers.encode(distorted)))
    torch.testing.assert_close(logits[0], served(model, again))


def test_nothing_to_measure_is_said(model: AdapterModel, preprocessing: Preprocessing) -> None:
    """No sample is an error, not a division by zero."""
    with pytest.raises(EmptyDataset, match="no image to measure"):
        predict_logits(model, [], preprocessing)


def test_corruption_table_equals_single_passes(
    model: AdapterModel, preprocessing: Preprocessing
) -> None:
    """Each cell is the top-1 of its own pass, and progress runs over all of them."""
    samples = [sample(number, number % 4) for number in range(6)]
    seen: list[tuple[int, int]] = []
    table = evaluate_corruptions(
        model,
        samples,
        preprocessing,
        kinds=("contrast", "pixelate"),
        severities=(1, 5),
        seed=3,
        on_progress=lambda done, total: seen.append((done, total)),
        batch_size=4,
    )
    expected = {
        kind: tuple(
            evaluate_logits(
                *predict_logits(
                    model, samples, preprocessing, corruption=Corruption(kind, severity, 3)
                ),
                classes=4,
            ).top1
            for severity in (1, 5)
        )
        for kind in ("contrast", "pixelate")
    }
    assert table.top1 == expected
    assert table.severities == (1, 5)
    assert table.mean == pytest.approx(sum(sum(row) for row in expected.values()) / 4)
    assert seen == [(done, 24) for done in (4, 6, 10, 12, 16, 18, 22, 24)]


class Chance(torch.nn.Module):
    """Two logits that the slightest change of an image turns over, as a coin."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, 2]."""
        return torch.stack([torch.zeros(len(images_BCHW)), images_BCHW[:, 0, 0, 0].frac()], 1)


def test_corruption_table_repeats_by_seed(preprocessing: Preprocessing) -> None:
    """The noise is that of the given seed: answers under it are right again, under it alone."""
    samples = [sample(number) for number in range(10)]
    noise = Corruption("gaussian_noise", 2, seed=3)
    logits, _ = predict_logits(Chance(), samples, preprocessing, corruption=noise)
    told = [
        replace(each, label=int(row.argmax())) for each, row in zip(samples, logits, strict=True)
    ]
    tables = [
        evaluate_corruptions(
            Chance(), told, preprocessing, kinds=[noise.kind], severities=[2], seed=seed
        )
        for seed in (3, 0)
    ]
    assert tables[0].mean == 1 > tables[1].mean


def test_unknown_corruption_is_refused_before_any_pass(
    model: AdapterModel, preprocessing: Preprocessing
) -> None:
    """A typing error in the last kind costs no hour of the first."""
    seen: list[int] = []
    with pytest.raises(UnknownCorruption, match="rain"):
        evaluate_corruptions(
            model,
            [sample(0)],
            preprocessing,
            kinds=("fog", "rain"),
            on_progress=lambda done, _: seen.append(done),
        )
    assert not seen


@pytest.fixture
def image_set(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of classes, three images each."""

    def write(*names: str) -> Path:
        for number, name in enumerate(names):
            folder = tmp_path / "set" / name
            folder.mkdir(parents=True)
            for image in range(3):
                picture = makers.picture(seed=10 * number + image)
                (folder / f"{image}.png").write_bytes(makers.encode(picture))
        return tmp_path / "set"

    return write


def test_adapter_answers_as_served(image_set: Callable[..., Path]) -> None:
    """Labels are matched by name, all of them compete, and every answer is the server's."""
    checkpoint, backbone = makers.checkpoint(), makers.backbone("test_resnet")
    data = image_set("class 3", "class 1")
    result = evaluate_adapter(open_adapter_task(checkpoint, backbone, data))
    model = checkpoint.model(backbone)
    right = 0
    for prediction in result.predictions:
        logits = served(model, Sample("", 0, (data / prediction.image).read_bytes))
        assert prediction.truth == prediction.image.partition("/")[0]
        assert prediction.answer == makers.labels(4)[int(logits.argmax())]
        assert prediction.score == pytest.approx(logits.softmax(0).max().item(), abs=1e-5)
        right += prediction.answer == prediction.truth
    assert len(result.predictions) == result.evaluation.images == 6
    assert result.evaluation.top1 == pytest.approx(right / 6)
    assert result.evaluation.confusion.sum(1).tolist() == [0, 3, 0, 3]
    assert result.labels == makers.labels(4)


def test_class_map_renames_and_restricts(image_set: Callable[..., Path]) -> None:
    """Only mapped classes are measured, and only the labels they mean can be answered."""
    checkpoint, backbone = makers.checkpoint(), makers.backbone("test_resnet")
    data = image_set("ant", "bee", "cow", "dog")
    names = {"ant": "class 2", "bee": "class 0", "dog": "class 2"}
    task = open_adapter_task(checkpoint, backbone, data, class_map=names)
    result = evaluate_adapter(task)
    model = checkpoint.model(backbone)
    assert result.labels == ("class 0", "class 2")
    assert len(result.predictions) == 9
    for prediction in result.predictions:
        logits = served(model, Sample("", 0, (data / prediction.image).read_bytes))
        assert prediction.truth == names[prediction.image.partition("/")[0]]
        assert prediction.answer == ("class 0" if logits[0] > logits[2] else "class 2")
    assert result.evaluation.confusion.sum(1).tolist() == [3, 6]


def test_foreign_classes_are_named(image_set: Callable[..., Path]) -> None:
    """The error says which classes, which labels there are, and how to go on."""
    checkpoint, backbone = makers.checkpoint(), makers.backbone("test_resnet")
    data = image_set("class 1", "zebra")
    with pytest.raises(UnknownClass, match=r"'zebra'.*'class 0'.*--class-map"):
        open_adapter_task(checkpoint, backbone, data)
    with pytest.raises(InvalidClassMap, match="'yak'"):
        open_adapter_task(checkpoint, backbone, data, class_map={"zebra": "yak"})


def test_other_backbone_is_refused(image_set: Callable[..., Path]) -> None:
    """An adapter is never measured on features it was not made for."""
    with pytest.raises(WrongBackbone):
        open_adapter_task(makers.checkpoint(), makers.backbone("test_vit"), image_set("class 0"))

"""Where weights come from, what is refused, and what makes a fingerprint."""

import logging

import pytest
import safetensors.torch
import torch

from adapters.backbone import load_backbone
from adapters.errors import WeightsMismatch, WeightsUnavailable
from tests import makers


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """The weights of a small backbone as a user's file."""
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    safetensors.torch.save_file(makers.backbone("test_resnet").model.state_dict(), path)
    return path


def test_random_weights_are_the_same_every_time():
    """Two loads of the same random backbone have one fingerprint, and leave torch's seed alone."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load_backbone("test_resnet", "random")
    assert torch.equal(torch.rand(1), expected)
    assert load_backbone("test_resnet", "random").spec == first.spec


@pytest.mark.parametrize("name", ["test_resnet", "regnetx_002"])
def test_no_branch_of_random_weights_is_zero(name):
    """Every norm scales by something, those that timm starts at zero included."""
    state = load_backbone(name, "random").model.state_dict()
    assert all(values.any() for key, values in state.items() if key.endswith("weight"))


def test_a_file_gives_the_same_backbone(weights_file):
    """Weights that went through a file are the same backbone."""
    assert load_backbone("test_resnet", weights_file).spec == makers.backbone("test_resnet").spec


def test_the_classifier_does_not_matter(weights_file, tmp_path):
    """A file without a classifier, or with another one, is the same backbone to an adapter."""
    state = safetensors.torch.load_file(weights_file)
    bare = {name: values for name, values in state.items() if not name.startswith("fc.")}
    other = {**bare, "fc.weight": state["fc.weight"][:7].clone(), "fc.bias": torch.zeros(7)}
    for number, variant in enumerate((bare, other)):
        path = tmp_path / f"{number}.safetensors"
        safetensors.torch.save_file(variant, path)
        loaded = load_backbone("test_resnet", path)
        assert loaded.spec.fingerprint == makers.backbone("test_resnet").spec.fingerprint
    assert loaded(torch.zeros(1, 3, 160, 160)).shape == (1, 7)


def test_step_counters_may_be_missing(weights_file, tmp_path):
    """BatchNorm's step counters are neither asked for nor part of the fingerprint."""
    state = safetensors.torch.load_file(weights_file)
    path = tmp_path / "w.safetensors"
    kept = {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    safetensors.torch.save_file(kept, path)
    assert load_backbone("test_resnet", path).spec == makers.backbone("test_resnet").spec


def test_one_changed_weight_changes_the_fingerprint(weights_file, tmp_path):
    """The last bit of one weight, or of one running statistic, makes another backbone."""
    original = makers.backbone("test_resnet").spec.fingerprint
    for name in ("conv1.0.weight", "bn1.running_mean"):
        state = safetensors.torch.load_file(weights_file)
        flat = state[name].view(-1)
        flat[0] = torch.nextafter(flat[0], torch.tensor(torch.inf))
        path = tmp_path / "w.safetensors"
        safetensors.torch.save_file(state, path)
        assert load_backbone("test_resnet", path).spec.fingerprint != original


def test_missing_file_says_what_to_pass(tmp_path):
    """A path without a file is named, with the ways out."""
    with pytest.raises(WeightsUnavailable, match=r"nowhere\.safetensors.*--weights hub"):
        load_backbone("test_resnet", tmp_path / "nowhere.safetensors")


def test_another_models_weights_are_refused_by_name(weights_file):
    """The message lists what is missing and what is not wanted."""
    with pytest.raises(WeightsMismatch, match=r"missing \(.*not wanted \(.*--weights with a file"):
        load_backbone("test_vit", weights_file)


def test_a_pickle_is_not_read(tmp_path):
    """A torch.save file is refused without being unpickled."""
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsMismatch, match="pickle"):
        load_backbone("test_resnet", path)


def test_no_hub_says_what_was_tried(monkeypatch):
    """The error names the model, the cause and the way out; the client's retries are silent."""
    client, heard = logging.getLogger("huggingface_hub.utils._http"), []
    import timm.models._builder as builder

    def unreachable(*_args, **_options):
        heard.append(client.isEnabledFor(logging.WARNING))
        raise OSError("no route to the hub")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", unreachable)
    with pytest.raises(WeightsUnavailable, match=r"test_resnet.*no route.*--weights PATH"):
        load_backbone("test_resnet", "hub")
    assert heard == [False]
    assert client.isEnabledFor(logging.WARNING)

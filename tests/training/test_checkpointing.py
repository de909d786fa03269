"""Gradient checkpointing: less memory, the same training."""

import pytest
import torch

from adapters.backbone import StagedBackbone, describe
from adapters.backbone.architecture import create
from tests import makers
from training.checkpointing import checkpoint_stages
from training.config import make_config
from training.frozen import SparingFrozen
from training.methods import METHODS


def _trained(name, method, *, checkpointed):
    """State, gradients and the number of tensors kept for backward after one pass."""
    bare = create(name)
    bare.load_state_dict(makers.backbone(name).model.state_dict())
    config = make_config({"data": "x", "backbone": name})
    model = METHODS[method].build(config, StagedBackbone(bare, describe(name)), 3)
    if checkpointed:
        checkpoint_stages(model.backbone)
    size = model.backbone.spec.preprocessing.height
    images_BCHW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), SparingFrozen():
        loss = torch.nn.functional.cross_entropy(model(images_BCHW), torch.tensor([0, 1]))
        held = kept
    loss.backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    counters = "num_batches_tracked"
    state = {key: v for key, v in model.state_dict().items() if not key.endswith(counters)}
    return state, gradients, held


@pytest.mark.parametrize("method", ["pro-tuning", "full"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_it_changes_memory_and_nothing_else(name, method):
    """Gradients and BatchNorm statistics are bit-equal; far less is kept for backward."""
    state, gradients, held = _trained(name, method, checkpointed=False)
    their_state, their_gradients, their_held = _trained(name, method, checkpointed=True)
    assert gradients.keys() == their_gradients.keys()
    assert all(gradients[key].equal(their_gradients[key]) for key in gradients)
    assert all(state[key].equal(their_state[key]) for key in state)
    # Of the frozen layers nothing much is kept anyway.
    assert their_held < (0.75 if method == "full" else 0.9) * held

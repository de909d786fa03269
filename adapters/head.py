"""The fully-connected layer on top of the pooled features (step 4 of section 3.1)."""

from pydantic import ValidationError
from torch import nn

from adapters.errors import InvalidSpec
from adapters.manifest import MAX_CLASSES, Architecture, HeadSpec


def head_spec(architecture: Architecture, classes: int) -> HeadSpec:
    """The head of a task with `classes` classes.

    Raises:
        InvalidSpec: not between 1 and MAX_CLASSES.
    """
    try:
        return HeadSpec(in_features=architecture.feature_dim, classes=classes)
    except ValidationError as error:
        raise InvalidSpec(
            f"A head has 1 to {MAX_CLASSES:,} classes, not {classes:,}. Split the task."
        ) from error


def make_head(spec: HeadSpec) -> nn.Linear:
    """A linear layer [B, in_features] -> logits [B, classes], with small weights and zero biases.

    Small weights start the cross-entropy near its uniform value, log(classes).
    """
    head = nn.Linear(spec.in_features, spec.classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head

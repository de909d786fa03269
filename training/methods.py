"""The methods of the paper's tables as data: what each trains, from where, and its defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.backbone import StagedBackbone, describe, load_backbone
from adapters.backbone.architecture import create
from adapters.head import head_spec
from adapters.model import Adapter, AdapterModel
from adapters.prompt import prompt_spec
from training.config import Augment, MethodName, TrainConfig
from training.partial import last_layers

_Parts = Callable[[StagedBackbone], list[nn.Module]]


@dataclass(frozen=True)
class Recipe:
    """The options whose best value depends on the method."""

    lr: float
    weight_decay: float
    epochs: int
    augment: Augment


@dataclass(frozen=True)
class Method:
    """One way to tune a backbone.

    Attributes:
        name: as on the command line.
        trains: what it trains, for people.
        recipe: its default options.
        prompts: whether the adapter has prompt blocks besides its head.
        parts: the parts of the backbone that train too; None for a frozen one.
        from_scratch: whether the backbone starts from random weights.
    """

    name: MethodName
    trains: str
    recipe: Recipe
    prompts: bool = False
    parts: _Parts | None = None
    from_scratch: bool = False

    @property
    def servable(self) -> bool:
        """Whether its result runs on the shared, frozen backbone."""
        return self.parts is None

    def load(self, config: TrainConfig) -> StagedBackbone:
        """The backbone that it starts from.

        Raises:
            BackboneError: see `adapters.backbone.load_backbone`.
        """
        if not self.from_scratch:
            return load_backbone(config.backbone, config.weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return StagedBackbone(create(config.backbone), describe(config.backbone))

    def build(self, config: TrainConfig, backbone: StagedBackbone, classes: int) -> AdapterModel:
        """The model to train: exactly what trains requires a gradient; `backbone` is changed.

        Raises:
            InvalidSpec: the backbone cannot carry the prompt options, or so many classes.
        """
        prompt = prompt_spec(
            backbone.spec,
            sites=config.sites if self.prompts else "none",
            blocks=config.blocks,
            kernel_size=config.kernel,
            groups=config.groups,
            activation=config.activation,
            beta=config.beta,
            class_token=config.class_token,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            adapter = Adapter(prompt, head_spec(backbone.spec, classes), backbone.spec)
        if self.parts is not None:
            backbone.thaw(self.parts(backbone))
        return AdapterModel(backbone, adapter)


def _everything(backbone: StagedBackbone) -> list[nn.Module]:
    return [backbone.model]


def _last_layer(backbone: StagedBackbone) -> list[nn.Module]:
    return last_layers(backbone, 1)


def _last_two(backbone: StagedBackbone) -> list[nn.Module]:
    return last_layers(backbone, 2)


_FINE = Recipe(lr=1e-4, weight_decay=0.05, epochs=20, augment="light")
_PROMPTS = Recipe(lr=1e-3, weight_decay=0.05, epochs=20, augment="light")
_PARTIAL = Recipe(lr=3e-4, weight_decay=0.05, epochs=20, augment="light")
_HEAD = Recipe(lr=3e-3, weight_decay=1.0, epochs=100, augment="none")
_SCRATCH = Recipe(lr=1e-3, weight_decay=0.05, epochs=100, augment="medium")

METHODS: Mapping[MethodName, Method] = {
    method.name: method
    for method in (
        Method("pro-tuning", "prompt blocks and head", _PROMPTS, prompts=True),
        Method("head", "the head", _HEAD),
        Method("full", "the backbone and a head", _FINE, parts=_everything),
        Method("partial-1", "the last layer and a head", _PARTIAL, parts=_last_layer),
        Method("partial-2", "the last two layers and a head", _PARTIAL, parts=_last_two),
        Method(
            "scratch",
            "the backbone, from random weights, and a head",
            _SCRATCH,
            parts=_everything,
            from_scratch=True,
        ),
        Method(
            "pro-tuning-full",
            "the backbone, prompt blocks and a head",
            _FINE,
            prompts=True,
            parts=_everything,
        ),
    )
}


def settle(config: TrainConfig) -> TrainConfig:
    """The configuration with the method's defaults where it says nothing."""
    recipe = vars(METHODS[config.method].recipe)
    return config.model_copy(
        update={name: value for name, value in recipe.items() if getattr(config, name) is None}
    )


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a training step can change, by name: no copies.

    These are the parameters with a gradient and the buffers of modules in train mode.
    """
    model.train()
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    for path, module in model.named_modules():
        if module.training:
            names |= {f"{path}.{name}" for name, _ in module.named_buffers(recurse=False)}
    return {name: value for name, value in model.state_dict().items() if name in names}

"""A network as a chain of named stages, so that the first of them can be frozen and computed once."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import torch
from torch import Tensor, nn

from convscope.errors import UsageError, unknown_name
from convscope.models.eval_mode import batch_norms, eval_mode
from convscope.models.spec import InputShape
from convscope.models.surgery.head import split_backbone
from convscope.torch_internals import OperationMode

TOLERANCE = 1e-4
"""Largest difference between equal results; relative to the largest value if that is above 1."""

Stage = tuple[str, nn.Module]

_CHAINS: tuple[tuple[str, ...], ...] = (
    ("conv_stem", "bn1", "blocks.*", "conv_head", "bn2", "global_pool", "classifier"),  # timm: EfficientNet, MobileNet
    ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool", "fc"),  # timm: ResNet
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "<flatten>", "fc"),
    ("features.*", "avgpool", "<flatten>", "classifier.*"),  # torchvision: AlexNet, VGG
    ("features.*", "<pool>", "<flatten>", "classifier.*"),  # torchvision: MobileNetV2
    ("features.*", "<relu>", "<pool>", "<flatten>", "classifier"),  # torchvision: DenseNet
    ("features.*", "avgpool", "classifier.*"),  # torchvision: ConvNeXt
)
"""Names of the attributes that make the chain; `.*` stands for all children, `<...>` for a step without a module."""
_STEPS: dict[str, Callable[[], nn.Module]] = {
    "<flatten>": nn.Flatten,
    "<relu>": nn.ReLU,
    "<pool>": lambda: nn.AdaptiveAvgPool2d(1),
}


class Frozen(nn.Sequential):
    """Modules that do not learn: no gradients, and always in evaluation mode, so that batch norm stays as it is."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever is asked for."""
        return super().train(False)


class KeepsStatistics(nn.Sequential):
    """Modules that learn, while their batch norms stay in evaluation mode and keep their running statistics.

    A head fitted to features under these statistics would have to adapt to those of each batch.
    """

    def train(self, mode: bool = True) -> Self:
        """Put all but the batch norms into this mode."""
        super().train(mode)
        for norm in batch_norms(self):
            norm.eval()
        return self


def find_stages(network: nn.Module, input_shape: InputShape) -> list[Stage]:
    """Return (name, module) of the stages. Running them in turn gives what the network gives; this is checked.

    The modules are the network's own: training a stage trains the network. On the meta device
    the operations are compared instead of the results.

    Raises:
        UsageError: the network is not a known chain.
    """
    for names in ("*",), *_CHAINS:
        stages = _named(network, names)
        if stages is not None and _is_the_network(network, stages, input_shape):
            return stages
    raise UsageError(f"a {type(network).__name__} is not known as a chain of stages")


def find_freezable(network: nn.Module, input_shape: InputShape) -> list[Stage]:
    """Return the stages of a chain; of any other network that ends in a dense layer, `backbone` and `head`.

    Inception v3, GoogLeNet, SENet and Xception are examples of the latter.

    Raises:
        UsageError: the network does not end in one dense layer.
    """
    try:
        return find_stages(network, input_shape)
    except UsageError:
        with suppress(UsageError):
            stages = list(zip(("backbone", "head"), split_backbone(network), strict=True))
            if _is_the_network(network, stages, input_shape):
                return stages
    raise UsageError(
        f"a {type(network).__name__} does not end in one dense layer, so none of it can be frozen; "
        "train it whole with --no-freeze, or take a network such as efficientnet_lite0, mobilenetv2_100 or resnet18"
    )


def split_stages(stages: Sequence[Stage], unfreeze: Sequence[str]) -> tuple[Frozen, nn.Sequential]:
    """Return (frozen, rest): the stages before the first one that learns, and all others.

    In the rest, the stages named in `unfreeze` learn, and so does the head: the last stage with parameters.

    Args:
        unfreeze: names of stages, or beginnings of names up to a dot; ("all",) for every stage, () for the head alone.

    Raises:
        UsageError: a name fits no stage; the message lists them.
    """
    names = [name for name, module in stages if has_parameters(module)]
    for wanted in unfreeze:
        if wanted != "all" and not any(lies_in(name, wanted) for name in names):
            raise unknown_name("stage", wanted, names)
    learns = [
        name == names[-1] or "all" in unfreeze or any(lies_in(name, wanted) for wanted in unfreeze)
        for name, _ in stages
    ]
    first = learns.index(True)
    while first and not has_parameters(stages[first - 1][1]):
        first -= 1  # layers without parameters belong to the stage they feed, except pooling
        if _shrinks(stages[first][1]):
            first += 1
            break
    rest = [module if learned else Frozen(module) for (_, module), learned in zip(stages, learns, strict=True)]
    return Frozen(*(module for _, module in stages[:first])), nn.Sequential(*rest[first:])


def dense_head(rest: nn.Sequential) -> nn.Linear:
    """Return the last stage, which gives the logits.

    Raises:
        UsageError: it is not a dense layer.
    """
    last = rest[-1]
    if not isinstance(last, nn.Linear):
        raise UsageError(f"the last stage is a {type(last).__name__}, not a dense layer; train with --no-freeze")
    return last


def has_parameters(module: nn.Module) -> bool:
    """Return whether a module has parameters."""
    return any(True for _ in module.parameters())


def flat_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers that a module runs one after another; the module itself if it does anything else."""
    if type(module).forward is nn.Sequential.forward:
        return [layer for child in module.children() for layer in flat_layers(child)]
    return [module]


def agree(found: Tensor, expected: Tensor) -> bool:
    """Return whether two results are equal up to TOLERANCE."""
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1))


def _named(network: nn.Module, names: Sequence[str]) -> list[Stage] | None:
    if names == ("*",):
        return list(network.named_children()) if isinstance(network, nn.Sequential) else None
    stages: list[Stage] = []
    for name in names:
        if name in _STEPS:
            stages.append((name.strip("<>"), _STEPS[name]()))
            continue
        module = getattr(network, name.removesuffix(".*"), None)
        if not isinstance(module, nn.Module):
            return None
        if name.endswith(".*") and isinstance(module, nn.Sequential):
            stages += [(f"{name[:-2]}.{child}", layer) for child, layer in module.named_children()]
        else:
            stages.append((name.removesuffix(".*"), module))
    return stages


def _is_the_network(network: nn.Module, stages: Sequence[Stage], input_shape: InputShape) -> bool:
    x = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0))
    x = x.to(next(network.parameters()).device)
    chain = nn.Sequential(*(stage for _, stage in stages))  # a backbone is a module of its own, with its own mode
    with eval_mode(network), eval_mode(chain), torch.no_grad():
        # not in inference mode, whose operations differ from those of a training step
        expected: Any = _operations(network, x) if x.is_meta else network(x)
        try:
            found: Any = _operations(chain, x) if x.is_meta else chain(x)
        except (RuntimeError, TypeError):  # the attributes have these names and another meaning
            return False
        return bool(found == expected) if x.is_meta else agree(found, expected)


def _operations(network: nn.Module, x: Tensor) -> list[object]:
    """Return what is done to x, in its order."""
    noting = _Noted()
    with noting:
        network(x)
    return noting.done


class _Noted(OperationMode):  # type: ignore[no-untyped-call]
    """Notes the operations inside it and their operands, whether in place or not."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[object] = []
        self._results: list[object] = []  # held, so that no other tensor gets the id of one
        self._made_by: dict[int, int] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run one operation and note its name, its arguments, and by which operations those were made."""
        name = func.name().partition(".")[0].removesuffix("_")
        self.done.append((name, self._described(args), self._described(tuple(kwargs.items()))))
        result = func(*args, **kwargs)
        for value in result if isinstance(result, tuple | list) else (result,):
            self._made_by[id(value)] = len(self.done)
        self._results.append(result)
        return result

    def _described(self, value: Any) -> object:  # noqa: ANN401
        if isinstance(value, tuple | list):
            return tuple(map(self._described, value))
        return ("made by", self._made_by.get(id(value), id(value))) if isinstance(value, Tensor) else value


def lies_in(name: str, wanted: str) -> bool:
    """Return whether a layer is the one of this name or inside it."""
    return name == wanted or name.startswith(f"{wanted}.")


def _shrinks(module: nn.Module) -> bool:
    kinds = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d)
    return any(isinstance(layer, kinds) or "Pool" in type(layer).__name__ for layer in module.modules())

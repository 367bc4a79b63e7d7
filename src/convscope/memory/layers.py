"""What each layer of a network costs: parameters, operations and bytes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.memory.macs import layer_macs
from convscope.memory.trace import OUTSIDE
from convscope.results.memory import LayerCost


@dataclass(frozen=True)
class LayerCall:
    """The first call of a layer: the shape of its output without the batch, None if it is not a single tensor."""

    output: tuple[int, ...] | None
    output_bytes: int
    macs: int


@contextmanager
def noting_calls(network: nn.Module, calls: dict[str, LayerCall]) -> Iterator[None]:
    """Record the first call of each layer in `calls`, by the layer's name, while the network runs."""
    with ExitStack() as hooks:
        for name, module in network.named_modules():

            def note(module: nn.Module, _: object, output: object, name: str = name or OUTSIDE) -> None:
                call = LayerCall(None, 0, 0)
                if isinstance(output, Tensor):
                    call = LayerCall(tuple(output.shape[1:]), output.nbytes, layer_macs(module, output))
                calls.setdefault(name, call)

            hooks.enter_context(module.register_forward_hook(note))
        yield


def layer_costs(network: nn.Module, calls: Mapping[str, LayerCall], saved_by: Mapping[str, int]) -> Iterator[LayerCost]:
    """Yield the layers in the order of their first output; modules with children only if they cost something."""
    modules = {name or OUTSIDE: module for name, module in network.named_modules()}
    counted: set[int] = set()
    for name, call in calls.items():
        module = modules[name]
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted |= {id(p) for p in own}
        saved = saved_by.get(name, 0)
        if next(module.children(), None) is not None and not own and not saved:
            continue
        yield LayerCost(
            name=name,
            kind=type(module).__name__,
            output_shape=call.output,
            num_params=sum(p.numel() for p in own),
            arithmetic=parameter_arithmetic(module),
            macs=call.macs,
            output_bytes=call.output_bytes,
            saved_bytes=saved,
        )


def parameter_arithmetic(module: nn.Module) -> str:
    """Return how the parameters of a layer are counted, "" if it has none of its own.

    Example:
        >>> parameter_arithmetic(nn.Conv2d(100, 200, 3))
        '(3x3x100 + 1) x 200 = 180,200'
    """
    own = dict(module.named_parameters(recurse=False))
    total = sum(p.numel() for p in own.values())
    weight, bias = own.get("weight"), own.get("bias")
    if not own:
        return ""
    if isinstance(module, nn.Conv2d | nn.Linear) and weight is not None and len(own) <= 2:
        outputs, inputs, *kernel = weight.shape
        one = "x".join(map(str, (*kernel, inputs)))
        return f"{one} x {outputs} = {total:,}" if bias is None else f"({one} + 1) x {outputs} = {total:,}"
    shapes = ["x".join(map(str, p.shape)) or "1" for p in own.values()]
    terms = [f"{count} x {shape}" if count > 1 else shape for shape, count in Counter(shapes).items()]
    return f"{' + '.join(terms)} = {total:,}"


@contextmanager
def naming_layers(network: nn.Module, input_shape: tuple[int, ...]) -> Iterator[None]:
    """Turn the error of a layer that cannot take its input into one that names the layer and the input's shape."""
    running: list[tuple[str, nn.Module, Any]] = []
    try:
        with ExitStack() as hooks:
            for name, module in network.named_modules():

                def enter(module: nn.Module, inputs: Any, name: str = name or OUTSIDE) -> None:  # noqa: ANN401
                    running.append((name, module, inputs))

                hooks.enter_context(module.register_forward_pre_hook(enter))
                hooks.enter_context(module.register_forward_hook(lambda *_: running.pop() and None))
            yield
    except NotImplementedError as error:
        raise NotTraceable(str(error)) from error
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if "meta" in str(error).lower() or not running:
            raise NotTraceable(str(error)) from error
        name, module, inputs = running[-1]
        shapes = ", ".join("x".join(map(str, x.shape[1:])) for x in inputs if isinstance(x, Tensor))
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"layer {name!r} ({type(module).__name__}) cannot take an input of {shapes}: {reason}. The images are "
            f"{'x'.join(map(str, input_shape))}; give others with --input"
        ) from error


class NotTraceable(Exception):
    """The network computes with the values of its tensors, so its memory can only be measured."""

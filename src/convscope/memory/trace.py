"""A step of training on the meta device: what it allocates, and when it frees it.

The step is the real one, with torch's own autograd; only the arithmetic is left out. Every allocation is tracked until
the last tensor, saved variable or closure that holds it is gone. This accounts for in-place operations, shared memory,
activation checkpointing and the order of the backward pass.
"""

import copy
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from convscope.memory.kernels import RESULTS, WORKSPACE
from convscope.memory.speed import Work, work_of
from convscope.torch_internals import OperationMode, attention_of_cpu, without_compiler

OUTSIDE = "(network)"
"""The owner of what is allocated outside all layers: loss, gradients and images."""


@dataclass(frozen=True)
class Change:
    """A change in the memory in use: an allocation (positive `num_bytes`) or the end of one (negative)."""

    num_bytes: int
    allocation: int


class Allocations(OperationMode):  # type: ignore[no-untyped-call]
    """Records what the operations inside it allocate and free.

    Args:
        given: tensors that exist before and are held outside; they do not count.
        computing: the tensors are real, and the operations run.
        changes, work: in the order of time; `work` has one entry per operation.
        sizes, owners: bytes of each allocation, and the layer that was running.
        result_bytes: of all results together, as if none were freed; without workspace.
    """

    def __init__(self, given: Iterable[Tensor], *, computing: bool = False) -> None:
        super().__init__()
        self._computing = computing
        self.changes: list[Change] = []
        self.sizes: list[int] = []
        self.owners: list[str] = []
        self.work: list[Work] = []
        self.result_bytes = 0
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._running = [OUTSIDE]
        self._attention = ExitStack()
        self._given: set[int] = {id(tensor.untyped_storage()) for tensor in given}

    def __enter__(self) -> Self:
        """Begin to record."""
        self._attention.enter_context(attention_of_cpu())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        """Stop recording; it can begin again."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._attention.close()

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run one operation and record what it allocates."""
        result = func(*args, **kwargs) if self._computing else _run_on_meta(func, args, kwargs)
        workspace_bytes = WORKSPACE[func](*args) if func in WORKSPACE else 0
        self.work.append(work_of(func, args, result))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._note(value)
        if workspace_bytes:
            self.changes.append(Change(-workspace_bytes, self._new(workspace_bytes)))
        return result

    def number(self, tensor: Tensor) -> int | None:
        """Return the number of a tensor's allocation, None if it was not allocated in here."""
        storage = tensor.untyped_storage()
        number, reference = self._known.get(id(storage), (None, None))
        return number if reference is not None and reference() is storage else None

    def numbers(self, tensors: Iterable[Tensor | None]) -> set[int]:
        """Return the numbers of the allocations of these tensors."""
        found = {None if tensor is None else self.number(tensor) for tensor in tensors}
        return {number for number in found if number is not None}

    def alive(self) -> set[int]:
        """Return the numbers of all allocations in use now."""
        return {number for number, _ in self._known.values()}

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Keep track of which layer is running while the network is called."""
        with ExitStack() as hooks:
            for name, module in network.named_modules():
                if module is not network:

                    def enter(*_: object, name: str = name) -> None:
                        self._running.append(name)

                    hooks.enter_context(module.register_forward_pre_hook(enter))
                    hooks.enter_context(module.register_forward_hook(lambda *_: self._running.pop() and None))
            yield

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = id(storage), storage.nbytes()
        if not num_bytes or key in self._given or self.number(tensor) is not None:
            return
        number = self._new(num_bytes)
        self.result_bytes += num_bytes

        def gone(_: object) -> None:
            self.changes.append(Change(-num_bytes, number))
            del self._known[key]

        self._known[key] = (number, weakref.ref(storage, gone))

    def _new(self, num_bytes: int) -> int:
        number = len(self.sizes)
        self.sizes.append(num_bytes)
        self.owners.append(self._running[-1])
        self.changes.append(Change(num_bytes, number))
        return number


def _run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return what the CPU kernel would return, on the meta device."""
    with without_compiler():
        result = func(*args, **kwargs)
    return RESULTS[func](result, *args) if func in RESULTS else result


def to_meta(network: nn.Module) -> nn.Module:
    """Return a copy of the network on the meta device, with the same shapes, strides and types."""
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    return copy.deepcopy(network, memo)

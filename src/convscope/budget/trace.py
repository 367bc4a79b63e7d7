"""A step of training on tensors that have a shape and no content: what it allocates, and when it lets go of it.

The step is the real one, with torch's own autograd; only the arithmetic is left out. Every piece of memory is followed
from its allocation to the moment when the last tensor, saved variable or closure that holds it is gone, so in-place
operations, shared memory, checkpointing and the order of the backward pass count as they are.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convscope.budget.kernels import KERNELS, elementwise
from convscope.budget.work import Work, work_of
from convscope.models.operations import Operations

OUTSIDE = "(network)"
"""The name for what is allocated outside of all layers: the loss, the gradients, the pictures."""


@dataclass(frozen=True)
class Change:
    """A change of the memory in use: `num_bytes` more, or less where it is negative, of one allocation."""

    num_bytes: int
    allocation: int


class Allocations(Operations):  # type: ignore[no-untyped-call]
    """Notes what the operations within it allocate and free.

    Args:
        given: what is there before, is held outside, and does not count.
        changes: all so far, in their order.
        sizes: bytes of each allocation.
        owners: for each allocation, the name of the layer that was running.
        work: of each operation, in their order.
        result_bytes: of all results together, as if none were freed; what operations need beside them is left out.
    """

    def __init__(self, given: Iterable[Tensor], *, computing: bool = False) -> None:
        """Args: given: see above; computing: the tensors have content, and the operations are done."""
        super().__init__()
        self._computing = computing
        self.changes: list[Change] = []
        self.sizes: list[int] = []
        self.owners: list[str] = []
        self.work: list[Work] = []
        self.result_bytes = 0
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._running = [OUTSIDE]
        self._given: set[int] = {id(tensor.untyped_storage()) for tensor in given}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Run one operation, by our own rule for what it allocates where there is one."""
        result, scratch_bytes = _run(func, args, kwargs, computing=self._computing)
        self.work.append(work_of(func, args, result))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._note(value)
        if scratch_bytes:
            number = self._new(scratch_bytes)
            self.changes.append(Change(-scratch_bytes, number))
        return result

    def number(self, tensor: Tensor) -> int | None:
        """Return the number of the allocation that a tensor lies in, None if it was not made in here."""
        storage = tensor.untyped_storage()
        number, reference = self._known.get(id(storage), (None, None))
        return number if reference is not None and reference() is storage else None

    def numbers(self, tensors: Iterable[Tensor | None]) -> set[int]:
        """Return the numbers of the allocations that these tensors lie in."""
        found = {None if tensor is None else self.number(tensor) for tensor in tensors}
        return {number for number in found if number is not None}

    def alive(self) -> set[int]:
        """Return the numbers of all allocations in use now."""
        return {number for number, _ in self._known.values()}

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Know which layer is running while the network is called."""
        handles = []
        for name, module in network.named_modules():
            if module is not network:
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)))
                handles.append(module.register_forward_hook(lambda *_: self._running.pop() and None))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            del self._running[1:]

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


def _run(
    func: Any,  # noqa: ANN401
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    computing: bool,
) -> tuple[Any, int]:
    """Return the result of one operation and the bytes it needs beside it, by our own rule where there is one."""
    kernel = None if kwargs else KERNELS.get(func)
    if computing:
        return func(*args, **kwargs), 0 if kernel is None else kernel(*args)[1]
    if kernel is not None:
        return kernel(*args)
    result = elementwise(func, args, kwargs)
    return (func(*args, **kwargs) if result is None else result), 0


def without_content(network: nn.Module) -> nn.Module:
    """Return a copy of the network whose tensors have shape, order in memory and type, and no content."""
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        # not torch.empty_like, which imports torch's symbolic shapes for a second, and sympy with them
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    return copy.deepcopy(network, memo)

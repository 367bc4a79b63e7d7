"""Every private name of torch, torchvision and timm that this package uses.

`tests/test_torch_internals.py` tests each, and fails if a new release removed or changed it. The upper bounds on torch
and timm in pyproject.toml are raised when those tests pass.
"""

import copy
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

fused_sgd, fused_adam, fused_adamw = torch._fused_sgd_, torch._fused_adam_, torch._fused_adamw_
"""Optimizer steps over lists of tensors, in place. torch.optim calls them too, but imports torch's compiler first."""

COMPILER = "torch._dynamo"


class OperationMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs the operations inside its `with` block through `run`, one by one and below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: excluding this class from compilation would import the compiler, which takes a second."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run one operation."""
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Return the result of one operation; subclasses also record it."""
        return func(*args, **kwargs)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let code that excludes functions from compilation run without importing torch's compiler.

    The compiler takes a second and 125 MiB to import. torchvision asks it whether it supports a device; timm and
    torch's meta kernels exclude functions from compilation. A stand-in module forwards the question and marks functions
    as the compiler does.
    """
    if COMPILER in sys.modules:
        yield
        return
    compiler, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
    compiler.disable = _mark_as_not_compiled  # type: ignore[attr-defined]
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules |= {module.__name__: module for module in (compiler, utils)}
    try:
        yield
    finally:
        del sys.modules[compiler.__name__], sys.modules[utils.__name__]


def _mark_as_not_compiled(fn: Any = None, recursive: bool = True, **options: object) -> Any:  # noqa: ANN401
    if fn is None:
        return partial(_mark_as_not_compiled, recursive=recursive, **options)
    fn._torchdynamo_disable = True
    return fn


def _is_compile_supported(device_type: str) -> bool:
    return bool(import_module(f"{COMPILER}.utils").is_compile_supported(device_type))


@contextmanager
def attention_of_cpu() -> Iterator[None]:
    """Let attention on the meta device consist of the operations that it consists of on a CPU.

    There it is one fused operation wherever that is supported, which keeps no matrix of tokens by tokens for the
    backward pass; on the meta device torch always shows the products that it stands for.
    """
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("scaled_dot_product_attention", _attend, "AutogradMeta")
    try:
        yield
    finally:
        library._destroy()


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    aten, how = torch.ops.aten, {"scale": scale, "enable_gqa": enable_gqa}
    choice: Any = torch._fused_sdp_choice
    with _disable_current_modes():
        on_cpu = [None if each is None else _without_content(each) for each in (query, key, value, attn_mask)]
        fused = choice(*on_cpu, dropout_p, is_causal, **how) == SDPBackend.FLASH_ATTENTION.value
    results: tuple[Tensor, ...]
    if fused:
        operator = aten._scaled_dot_product_flash_attention_for_cpu
        results = operator(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    else:
        operator = aten._scaled_dot_product_attention_math
        results = operator(query, key, value, attn_mask, dropout_p, is_causal, None, **how)
    return results[0]


def _without_content(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU that takes up addresses but no memory, as nothing is written to it."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return empty.requires_grad_(tensor.requires_grad)


def run_backward(loss: Tensor) -> None:
    """Do what `loss.backward()` does for a scalar loss, without the checks that it needs for other cases."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def storage_key(tensor: Tensor) -> int:
    """Return a number that tensors share if and only if they share their memory, on the meta device too."""
    return int(tensor.untyped_storage()._cdata)


def version(tensor: Tensor) -> int:
    """Return how many operations have changed a tensor in place."""
    return tensor._version


def shallow_copy(module: nn.Module) -> nn.Module:
    """Return a copy that shares tensors and submodules; a submodule replaced in the copy stays in the original."""
    clone = copy.copy(module)
    clone._modules = dict(module._modules)
    return clone


def changes_operand(func: Any) -> bool:  # noqa: ANN401
    """Return whether an operator of torch writes to one of its operands."""
    return bool(func._schema.is_mutable)


def multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16 products; oneDNN says yes even for AVX-512 without them."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def allocation_sizes(work: Callable[[], object]) -> list[int]:
    """Return the bytes that torch's CPU allocator allocated (positive) and freed (negative) during `work()`, in order.

    oneDNN's allocations are included.
    """
    with torch.autograd.profiler.profile(profile_memory=True, use_kineto=True) as profile:
        work()
    assert profile.kineto_results is not None
    changes = sorted(
        (event.start_ns(), index, event.nbytes())
        for index, event in enumerate(profile.kineto_results.events())
        if event.name() == "[memory]"
    )
    return [num_bytes for _, _, num_bytes in changes]


@contextmanager
def silent_exporter() -> Iterator[None]:
    """Keep torch's ONNX exporter from printing the graph it fails on: to standard output, where our JSON goes."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None  # the exporter switches its log on whatever it is told
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


@contextmanager
def constant_padding() -> Iterator[None]:
    """Make padding that timm computes from the image size a constant of a graph that is traced inside.

    ONNX Runtime then pads within the convolution, where it would otherwise convert its data layout and back:
    EfficientNet-Lite0 takes 14 ms for a photo on one core with AVX2 instead of 18, and gives the same bits.
    """
    padding = sys.modules.get("timm.layers.padding")
    if padding is None:
        yield
        return
    same = padding.get_same_padding  # TensorFlow's rule: enough that the output has input / stride pixels, rounded up
    padding.get_same_padding = lambda size, *rest: same(int(size), *rest)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        padding.get_same_padding = same  # type: ignore[attr-defined]

"""The private names of torch, torchvision and timm that we use: one case for each, which a new release may break."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.memory.kernels import RESULTS, WORKSPACE, aten
from convscope.torch_internals import (
    OperationMode,
    allocation_sizes,
    attention_of_cpu,
    changes_operand,
    fused_adam,
    fused_adamw,
    fused_sgd,
    multiplies_bfloat16,
    run_backward,
    shallow_copy,
    silent_exporter,
    storage_key,
    version,
)

STEP = {"lr": 0.1, "weight_decay": 0.01, "maximize": False}
ADAM = STEP | {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "amsgrad": False}


def step_of(optimizer: type[torch.optim.Optimizer], weight: Tensor, gradient: Tensor, **options: float) -> Tensor:
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    optimizer([parameter], lr=0.1, weight_decay=0.01, **options).step()
    return parameter.detach()


def check_fused_sgd() -> None:
    weight, gradient = torch.randn(2, 3, 4)
    expected = step_of(torch.optim.SGD, weight, gradient, momentum=0.9)
    options = {"momentum": 0.9, "dampening": 0.0, "nesterov": False, "is_first_step": False}
    fused_sgd([weight], [gradient], [torch.zeros(3, 4)], **STEP, **options)
    assert torch.allclose(weight, expected)


def check_fused_adam() -> None:
    weight, gradient = torch.randn(2, 3, 4)
    expected = step_of(torch.optim.Adam, weight, gradient, betas=(0.9, 0.99))
    slots = torch.zeros(2, 3, 4)
    fused_adam([weight], [gradient], [slots[0]], [slots[1]], [], [torch.ones(())], **ADAM)
    assert torch.allclose(weight, expected)


def check_fused_adamw() -> None:
    weight, gradient = torch.randn(2, 3, 4)
    expected = step_of(torch.optim.AdamW, weight, gradient, betas=(0.9, 0.99))
    slots = torch.zeros(2, 3, 4)
    fused_adamw([weight], [gradient], [slots[0]], [slots[1]], [], [torch.ones(())], **ADAM)
    assert torch.allclose(weight, expected)


def check_execution_engine() -> None:
    x, weight = torch.randn(4, 3), torch.randn(2, 3, requires_grad=True)
    run_backward(F.cross_entropy(F.linear(x, weight), torch.zeros(4, dtype=torch.int64)))
    found, weight.grad = weight.grad, None
    F.cross_entropy(F.linear(x, weight), torch.zeros(4, dtype=torch.int64)).backward()
    assert found is not None
    assert torch.equal(found, weight.grad)


def check_dispatch_mode() -> None:
    seen = []

    class Noting(OperationMode):  # type: ignore[no-untyped-call]
        def run(self, func, args, kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            seen.append(func.name())
            return super().run(func, args, kwargs)

    x = torch.ones(3, requires_grad=True)
    with Noting():
        torch.autograd.backward((x * 2).sum())
    assert seen[:2] == ["aten::mul.Tensor", "aten::sum"]
    assert len(seen) > 2, "operations of the backward pass"
    assert torch.equal(x.grad, torch.full((3,), 2.0))  # type: ignore[arg-type]


def check_storage_key() -> None:
    for device in ("cpu", "meta"):
        x, other = torch.empty(4, device=device), torch.empty(4, device=device)
        assert storage_key(x) == storage_key(x[1:]) != storage_key(other)


def check_version() -> None:
    x = torch.zeros(2)
    before = version(x)
    x.view(2).add_(1)
    assert version(x) > before


def check_schema() -> None:
    assert changes_operand(aten.add_.Tensor)
    assert not changes_operand(aten.add.Tensor)


def check_modules() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    clone = shallow_copy(network)
    setattr(clone, "1", nn.Identity())
    assert isinstance(network[1], nn.ReLU)
    assert isinstance(clone[1], nn.Identity)  # type: ignore[index]
    assert clone[0] is network[0]  # type: ignore[index]


def check_bfloat16() -> None:
    assert multiplies_bfloat16() in (True, False)
    assert all(callable(getattr(torch.cpu, f"_is_{name}_supported")) for name in ("avx512_bf16", "amx_tile"))
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)


def check_kineto_results() -> None:
    sizes = allocation_sizes(lambda: torch.zeros(1000).relu())
    assert sizes == [4000, 4000, -4000, -4000]


def check_silent_exporter() -> None:
    log = torch._C._jit_onnx_log
    with silent_exporter():
        assert torch._C._jit_onnx_log("Torch IR graph at exception: ", None) is None
    assert torch._C._jit_onnx_log is log


def check_kernels() -> None:
    """The arguments that our rules take by position."""
    names = {func: [argument.name for argument in func._schema.arguments] for func in {*RESULTS, *WORKSPACE}}
    assert names[aten.convolution.default][:7] == [
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "dilation",
        "transposed",
    ]
    backward = names[aten.convolution_backward.default]
    assert backward[:6] == ["grad_output", "input", "weight", "bias_sizes", "stride", "padding"]
    assert backward[9] == "groups"
    assert names[aten.native_batch_norm.default][5] == "training"
    assert names[aten.native_batch_norm_backward.default][:2] == ["grad_out", "input"]
    assert names[aten.native_batch_norm_backward.default][-1] == "output_mask"
    for func in (aten.max_pool2d_with_indices_backward.default, aten.avg_pool2d_backward.default):
        assert names[func][:2] == ["grad_output", "self"]
    assert names[aten.native_layer_norm_backward.default][:2] == ["grad_out", "input"]
    assert names[aten.hardtanh_backward.default][0] == "grad_output"


def check_attention_of_cpu() -> None:
    """The same operations in the same order as on the CPU, forward and backward; afterwards torch's own again."""

    def operations(device: str, dropout: float, bias: bool) -> list[str]:
        seen: list[str] = []

        class Noting(OperationMode):  # type: ignore[no-untyped-call]
            def run(self, func, args, kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
                seen.append(func.name())
                return func(*args, **kwargs)

        query, key, value = (torch.rand(2, 3, 50, 16, device=device, requires_grad=True) for _ in range(3))
        mask = torch.zeros(50, 50, device=device) if bias else None
        with Noting():  # type: ignore[no-untyped-call]
            torch.autograd.backward(F.scaled_dot_product_attention(query, key, value, mask, dropout).sum())
        return seen

    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    for dropout, bias in ((0.0, False), (0.0, True), (0.1, False)):
        on_cpu = operations("cpu", dropout, bias)
        with attention_of_cpu():
            assert operations("meta", dropout, bias) == on_cpu
        assert (fused in on_cpu) == (dropout == 0)
        assert fused not in operations("meta", dropout, bias)


CHECKS: dict[str, Callable[[], None]] = {
    "torch._fused_sgd_": check_fused_sgd,
    "torch._fused_adam_": check_fused_adam,
    "torch._fused_adamw_": check_fused_adamw,
    "torch.autograd.Variable._execution_engine": check_execution_engine,
    "torch.utils._python_dispatch.TorchDispatchMode": check_dispatch_mode,
    "UntypedStorage._cdata": check_storage_key,
    "Tensor._version": check_version,
    "OpOverload._schema": check_schema,
    "Module._modules": check_modules,
    "torch.cpu._is_*_supported": check_bfloat16,
    "profile.kineto_results": check_kineto_results,
    "torch.ops.aten": check_kernels,
    "torch._fused_sdp_choice": check_attention_of_cpu,
    "torch._C._jit_onnx_log": check_silent_exporter,
}


@pytest.mark.parametrize("name", CHECKS)
def test_private_name(name: str) -> None:
    CHECKS[name]()


SCRIPTS = {
    "TorchDispatchMode._should_skip_dynamo": """
        from convscope.torch_internals import OperationMode
        with OperationMode():
            torch.ones(2) + 1
        assert "torch._dynamo" not in sys.modules
    """,
    "torch._dynamo.disable in meta kernels": """
        from convscope.torch_internals import without_compiler
        with without_compiler():
            x = torch.empty(2, 3, device="meta").relu() @ torch.empty(3, 4, device="meta") + 1
        assert x.shape == (2, 4)
        assert "torch._dynamo" not in sys.modules
    """,
    "torch._dynamo.utils.is_compile_supported in torchvision": """
        from convscope.models.zoo.weights import load_library
        load_library("torchvision.models")
        assert "torch._dynamo" not in sys.modules
        from torchvision.ops.roi_align import is_compile_supported
        assert is_compile_supported("cpu") in (True, False)
        assert "torch._dynamo" in sys.modules
    """,
    "torch.compiler.disable in timm": """
        from convscope.models.zoo.weights import load_library
        load_library("timm")
        assert "torch._dynamo" not in sys.modules
        from timm.models.naflexvit import NaFlexRopeIterator
        assert any(getattr(part, "_torchdynamo_disable", False) for part in vars(NaFlexRopeIterator).values())
        f = torch.compiler.disable(lambda x: x + 1)  # by the compiler itself, as for everyone who comes after
        assert f(1) == 2 and "torch._dynamo" in sys.modules
    """,
    "timm.layers.padding.get_same_padding": """
        from convscope.models.zoo.weights import load_library
        from convscope.torch_internals import constant_padding
        load_library("timm")
        from timm.layers import padding
        before = padding.get_same_padding
        with constant_padding():
            assert padding.get_same_padding is not before
            assert padding.get_same_padding(torch.tensor(5), 3, 2, 1) == 2
            assert padding.pad_same(torch.zeros(1, 1, 5, 5), (3, 3), (2, 2)).shape == (1, 1, 7, 7)
        assert padding.get_same_padding is before
    """,
}
"""Cases that need a process in which nothing has imported torch's compiler yet."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_private_name_in_a_new_process(name: str) -> None:
    code = "import sys, torch\n" + textwrap.dedent(SCRIPTS[name])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The device a run computes on: choosing it, its threads and number formats, and describing it honestly."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import torch

from convscope.errors import UsageError
from convscope.processors import available_processors

_SHORTAGES = (
    "DefaultCPUAllocator",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "could not create a memory object",
)
"""What torch's allocators and the libraries it calls (cuBLAS, cuDNN, cuSOLVER, oneDNN) say when there is no memory."""

SMALL_STEP_MACS = 10_000_000
"""A training step of fewer multiply-adds (for the whole batch, forward) runs on one CPU thread.

N1 at batch 64 has 6.5 million: 0.56 ms a step on one thread and 0.62 ms on two, 0.56 and 1.6 ms while another program
uses one of the two cores. N2 has 30 million: 8.3 and 5.9 ms.
"""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Hardware:
    """What the run was computed on; None where it cannot be known."""

    device: str
    name: str | None
    cpu_cores: int | None
    threads: int
    memory_bytes: int
    platform: str


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: there is no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise UsageError(f"device {name!r} is not available on this machine; --device auto picks one that is")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} does not exist; this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def configure_threads(threads: int | None) -> None:
    """Set the number of CPU threads (None: as torch chose at first) and let denormal numbers count as zero.

    Denormals make late training on a CPU several times slower and change nothing that matters.
    """
    torch.set_num_threads(_default_threads() if threads is None else threads)
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Let the C allocator keep what a step frees for the next step; does nothing where it is not glibc's.

    It gives freed memory back to the system as soon as more than twice the largest block is free, and every page that
    is asked for again costs a page fault: 600,000 in 200 steps of N3, a quarter of its time. Blocks over 32 MiB still
    go back at once, so the peak of large networks stays what it was.
    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)


def release_freed_memory() -> None:
    """Let the C allocator give blocks of 128 KiB and more back once they are freed: less memory, more page faults.

    Hardly any gaps between blocks stay behind, so what a process holds is little more than what is in use: batches of 8
    through Inception v3 take 118 MiB where their tensors take 113; with a threshold of 1 MiB they took up to 150.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, 2**17)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**17)


def return_free_memory() -> None:
    """Give the memory that is free and still held by the C allocator back to the system, once."""
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def threads_for_step(macs: int) -> int | None:
    """Return the threads that suit a training step of so many multiply-adds: None is torch's own choice."""
    return 1 if macs < SMALL_STEP_MACS else None


@cache
def _default_threads() -> int:
    """Return torch's own choice, which is there to be asked for until the first change."""
    return torch.get_num_threads()


def has_idle_processor() -> bool:
    """Return whether torch computes on fewer processors than this process may use, so that another thread may work."""
    return torch.get_num_threads() < available_processors()


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed the generator that random layers such as dropout draw from on this device."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on whatever device; many libraries have no class for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORTAGES)


def autocast_dtype(device: torch.device, *, wanted: bool) -> torch.dtype | None:
    """Return the reduced format for mixed precision on this device, None for plain float32.

    A CPU without bfloat16 instructions emulates them several times slower, so there float32 stays.
    """
    if not wanted:
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if _multiplies_bfloat16() else None


def _multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions for products of bfloat16; oneDNN says yes to AVX-512 without them too."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def describe_hardware(device: torch.device) -> Hardware:
    """Return what is known of the device and the machine around it."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name: str | None = properties.name
        memory_bytes = int(properties.total_memory)
    else:
        name, memory_bytes = _cpu_name(), psutil.virtual_memory().total
    return Hardware(
        device=str(device),
        name=name,
        cpu_cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        memory_bytes=memory_bytes,
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def measure_peak_flops(
    device: torch.device, dtype: torch.dtype = torch.float32, *, size: int = 1024, rounds: int = 3
) -> float:
    """Return the best rate of a `size` x `size` matrix product in this format, in floating-point operations/second."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best_seconds = float("inf")
    for _ in range(rounds + 1):  # the first round warms up and is unlikely to be the best
        _synchronize(device)
        start = time.perf_counter()
        a @ b
        _synchronize(device)
        best_seconds = min(best_seconds, time.perf_counter() - start)
    return 2 * size**3 / best_seconds


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory held so far: of the device where it counts, else of this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # ru_maxrss would begin with what the process that started this one took
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_in_use_bytes(device: torch.device) -> int:
    """Return the memory held now: of the device where it counts, else of this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def free_memory_bytes(device: torch.device) -> int:
    """Return what could still be taken: of the device where it has memory of its own, else of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([psutil.virtual_memory().available, *_left_in_group()])


def limit_device_memory(device: torch.device, limit_bytes: int) -> None:
    """Let torch take no more of a GPU; does nothing for a CPU, where no allocator knows of such a limit."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)


def _left_in_group() -> list[int]:
    """Return what a limit on this process's control group leaves, if there is one."""
    group = Path("/sys/fs/cgroup")
    try:
        return [int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())]
    except (OSError, ValueError):  # no such file, or "max"
        return []


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _cpu_name() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or None

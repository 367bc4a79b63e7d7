"""The device a run computes on: choice, threads, number formats, memory and description."""

import ctypes
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

from convscope.config import Precision
from convscope.cpu import available_processors
from convscope.errors import UsageError
from convscope.torch_internals import multiplies_bfloat16

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
"""Error texts of torch's allocators and its libraries (cuBLAS, cuDNN, cuSOLVER, oneDNN) when memory runs out."""

SMALL_STEP_MACS = 10_000_000
"""A training step with fewer multiply-adds (forward, for the whole batch) runs on one CPU thread.

N1 at batch size 64 has 6.5 million: a step takes 0.56 ms on one thread and 0.62 ms on two; while another program uses
one of the two cores, 0.56 and 1.6 ms. N2 has 30 million: 8.3 and 5.9 ms.
"""

_VECTOR_SETS = ("amx", "avx", "fma", "asimd", "neon", "sve", "sme", "bf16", "i8mm", "vsx", "vxe", "rvv")
_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_found_threads: ContextVar[int | None] = ContextVar("found_threads", default=None)
"""CPU threads of the process when the outermost verb was called."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Hardware:
    """What a run was computed on; None means unknown.

    Args:
        capability: see `capability`.
    """

    device: str
    name: str | None
    cpu_cores: int | None
    threads: int
    memory_bytes: int
    platform: str
    capability: str | None = None


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
    """Set the number of CPU threads and flush denormal numbers to zero.

    None is the number that the process had when the verb was called, by default torch's own choice.

    Denormals make late training on a CPU several times slower and do not affect the result.
    """
    first = _first_threads()  # noted before any change
    torch.set_num_threads(threads or _found_threads.get() or first)
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Let the C allocator keep what a step frees for the next step; does nothing where it is not glibc's.

    By default glibc returns memory to the system once more than twice the largest block is free, and each page that is
    needed again costs a page fault: 600,000 in 200 steps of N3, a quarter of the time. Blocks over 32 MiB still go back
    at once, so the peak of large networks does not grow.
    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)


def release_freed_memory() -> None:
    """Let the C allocator return blocks of 128 KiB and more when they are freed: less memory, more page faults.

    Few gaps between blocks remain, so the process holds little more than is in use: batches of 8 through Inception v3
    take 118 MiB, of which their tensors take 113; with a threshold of 1 MiB they took up to 150.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, 2**17)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**17)


def return_free_memory() -> None:
    """Return to the system the free memory that the C allocator still holds."""
    gc.collect()
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Restore what a run changes in the process: threads, denormals, random state and the C allocator's settings."""
    threads, denormals_are_zero = torch.get_num_threads(), _denormals_are_zero()
    outermost = _found_threads.set(_found_threads.get() or threads)
    state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        _found_threads.reset(outermost)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(denormals_are_zero)
        torch.set_rng_state(state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        release_freed_memory()  # glibc's own thresholds


def _denormals_are_zero() -> bool:
    """Return whether this thread flushes denormal numbers to zero; torch can set that but not report it."""
    return float(torch.tensor(2.0**-1060, dtype=torch.float64) * 1.0) == 0.0


def threads_for_step(macs: int) -> int | None:
    """Return the number of threads for a training step with this many multiply-adds; None is torch's own choice."""
    return 1 if macs < SMALL_STEP_MACS else None


@cache
def _first_threads() -> int:
    """Return the number of threads at the first call; outside of verbs it is the default from then on."""
    return torch.get_num_threads()


def has_idle_processor() -> bool:
    """Return whether torch uses fewer processors than this process may, so that another thread can work."""
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
    """Return whether an error means that memory ran out; many libraries have no exception class for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORTAGES)


def reduced_dtype(device: torch.device, precision: Precision) -> torch.dtype | None:
    """Return the 16-bit format to compute in on this device, None for float32.

    `auto` is the device's own 16-bit format; on a CPU without bfloat16 instructions, where emulation is several times
    slower, it is float32.

    Raises:
        UsageError: bfloat16 was requested, and the device has no instructions for it.
    """
    found = None if precision == "float32" else _fast_dtype(device)
    if precision == "bfloat16" and found is not torch.bfloat16:
        raise UsageError(f"this {device.type} has no bfloat16 arithmetic; --precision auto uses the fastest one")
    return found


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if multiplies_bfloat16() else None


def capability(device: torch.device) -> str:
    """Return what the last digits of a result depend on: the kind of GPU, or the vector instructions of a CPU.

    torch and oneDNN choose their kernels by them, as in "AVX2: avx avx2"; environment variables may limit both.
    """
    if device.type != "cpu":
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    sets = sorted(name for name, value in found.items() if value is True and name.startswith(_VECTOR_SETS))
    limits = [f"{name}={os.environ[name]}" for name in _ISA_LIMITS if name in os.environ]
    return " ".join([f"{torch.backends.cpu.get_cpu_capability()}:", *sets, *limits]).removesuffix(":")


def describe_hardware(device: torch.device) -> Hardware:
    """Return the description of a device and its machine."""
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
        capability=capability(device),
    )


def measure_peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Return the best rate of this format on the threads in use, in floating-point operations per second.

    It is that of a matrix product or of a 3x3 convolution, whichever is faster: torch gives them to different
    libraries, and MKL multiplies float32 on an AMD processor at less than half the rate of oneDNN's convolution.
    Measured once in a process for each format and number of threads, in a fraction of a second.
    """
    return _peak_flops(device, dtype, torch.get_num_threads())


@cache
def _peak_flops(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    size, images, channels, side = 1024, 8, 128, 28
    a = torch.ones(size, size, device=device, dtype=dtype)
    x, weight = (
        torch.ones(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((images, channels, side, side), (channels, channels, 3, 3))
    )
    with torch.inference_mode():
        product = 2 * size**3 / shortest_seconds(lambda: a @ a, device)
        positions = images * channels * side**2
        convolution = 2 * positions * channels * 9 / shortest_seconds(lambda: F.conv2d(x, weight, padding=1), device)
    return max(product, convolution)


def shortest_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest time of four runs after one warm-up run."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: of a CUDA device, else of this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # ru_maxrss starts with the memory of the parent process
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_in_use_bytes(device: torch.device) -> int:
    """Return the memory in use: of a CUDA device, else of this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def free_memory_bytes(device: torch.device) -> int:
    """Return the free memory of a CUDA device, else of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([psutil.virtual_memory().available, *_left_in_group()])


def limit_device_memory(device: torch.device, limit_bytes: int) -> None:
    """Limit the memory that torch uses on a GPU; does nothing for a CPU, whose allocator has no limit."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)


def _left_in_group() -> list[int]:
    """Return the memory left under the limit of this process's control group; empty if it has none."""
    group = Path("/sys/fs/cgroup")
    try:
        return [int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())]
    except (OSError, ValueError):  # no such file, or "max"
        return []


def _cpu_name() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or None

"""Facts about the machine: its name and instructions, its matrix-product peak, the memory in use."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

_INTERESTING = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "asimd", "bf16", "sve")


def describe(device: torch.device) -> dict[str, str | int]:
    """Return the name of the device, the threads, the version of torch, and the instructions that matter."""
    facts: dict[str, str | int] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        return facts | {"name": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in pairs}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.processor() or platform.machine()
    return facts | {"name": name, "flags": " ".join(flag for flag in _INTERESTING if flag in flags)}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes, until the device has finished it."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of a large square matrix product, the best of six."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(6))


def read_bandwidth(device: torch.device) -> float:
    """Return the bytes per second of reading a large tensor (1 GiB on a GPU, else 256 MiB), the best of six."""
    numbers = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    return numbers.nbytes / min(seconds(numbers.sum, device) for _ in range(6))


class PeakMemory:
    """Measures the peak of memory since its creation: of the process, or of the GPU's allocator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # returns memory that earlier work has freed
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM

    def read(self) -> int:
        """Return the peak so far, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text()
            return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def log(text: str) -> None:
    """Print to standard error: standard output is for the table."""
    print(text, file=sys.stderr, flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

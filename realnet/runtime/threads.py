"""Threads and processes, and settings that make torch faster on a CPU (benchmarks/README.md, Tried)."""

import ctypes
import os
import platform

NUM_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""The processors that this process may use."""
NUM_THREADS = min(8, NUM_CPUS)
"""How many threads read files or draw pictures at a time."""

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def data_workers(wanted: int) -> int:
    """Return how many processes load data: no more than there are processors, on which they would only wait."""
    return min(wanted, NUM_CPUS)


def spin_briefly() -> None:
    """Make waiting threads release their core soon, unless ``GOMP_SPINCOUNT`` is already set.

    With few cores, threads that spin for long starve each other and the run's other processes. Call this before torch
    is imported: that is when OpenMP reads the variable.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory() -> None:
    """Keep the memory that this process frees for the next tensors, instead of returning it to the system.

    Otherwise every large tensor, and every copy of weights that oneDNN makes, takes new memory, which the system clears
    page by page: on small maps of many channels that takes longer than the convolution. All threads share what is kept:
    if each kept its own, memory would grow with every image that another thread draws. Without glibc, nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        malloc = ctypes.CDLL(None)
        malloc.mallopt(M_ARENA_MAX, 1)
        malloc.mallopt(M_MMAP_MAX, 0)
        malloc.mallopt(M_TRIM_THRESHOLD, -1)  # never

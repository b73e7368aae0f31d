"""What makes torch faster on a CPU than it is by itself (benchmarks/README.md, Tried)."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def spin_briefly() -> None:
    """Have threads that wait for others give their core away soon, where ``GOMP_SPINCOUNT`` is not set.

    Threads that spin long starve the other processes of the run, and each other, where cores are few. OpenMP reads the
    variable when torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for the next tensors, instead of giving it back to the system.

    Otherwise every large tensor, and every copy of weights that oneDNN makes, is new memory, which the system clears
    page by page: on small maps of many channels that takes longer than the convolution. With another C library than
    glibc nothing is changed.
    """
    if platform.libc_ver()[0] == "glibc":
        malloc = ctypes.CDLL(None)
        malloc.mallopt(M_MMAP_MAX, 0)
        malloc.mallopt(M_TRIM_THRESHOLD, -1)  # never

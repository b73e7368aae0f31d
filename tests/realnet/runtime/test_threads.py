import platform
import subprocess
import sys

import pytest

# five arrays of 40 MB, more than malloc keeps by itself; prints how much of them the process still holds
PROGRAM = """
import sys
import numpy as np
from pathlib import Path
from realnet.runtime import threads

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "keep":
    threads.keep_freed_memory()
before = resident()
arrays = [np.ones(40_000_000, np.uint8) for _ in range(5)]
del arrays
print((resident() - before) / 200_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
@pytest.mark.parametrize(("how", "low", "high"), [("keep", 0.9, 1.1), ("default", -0.1, 0.3)])
def test_freed_memory_is_kept_on_request(how, low, high):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert low < float(done.stdout) < high

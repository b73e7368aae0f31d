import platform
import subprocess
import sys

import pytest

from realnet.runtime import threads

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


THREADS = """
import threading
from pathlib import Path

import numpy as np

from realnet.runtime import threads

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def work():
    together.wait()
    with turn:
        np.ones(40_000_000, np.uint8)
    together.wait()

threads.keep_freed_memory()
together, turn = threading.Barrier(6), threading.Lock()
before = resident()
own = [threading.Thread(target=work) for _ in range(6)]
for one in own:
    one.start()
for one in own:
    one.join()
print((resident() - before) / 40_000_000)
"""
"""Prints how many arrays the process holds after six threads made and freed one each, in turn."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_all_threads_share_the_memory_that_is_kept():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.5


def test_no_more_processes_load_data_than_there_are_processors(monkeypatch):
    monkeypatch.setattr(threads, "NUM_CPUS", 2)
    assert [threads.data_workers(wanted) for wanted in (0, 1, 2, 4)] == [0, 1, 2, 2]

import errno
import json
import multiprocessing
import os
import signal
import time

import pytest
import torch

from realnet.errors import UserError
from realnet.runtime import lock
from realnet.runtime.distributed import World
from realnet.runtime.lock import LOCK, locked, one_run
from realnet.runtime.precision import Precision

FORK = multiprocessing.get_context("fork")


def hold(folder, ready, seconds=60.0):
    with locked(folder):
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder; killed at the end."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    says = rf"another run: process {holder.pid} on \S+, since 20\d\d-.*; wait until"
    with pytest.raises(UserError, match=says), locked(tmp_path):
        raise AssertionError("two runs in one folder")
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == holder.pid


def test_the_lock_of_a_killed_run_ends_with_it(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def hold_with_a_worker(folder, told):
    with locked(folder):
        worker = FORK.Process(target=time.sleep, args=(60,))
        worker.start()
        told.put(worker.pid)
        time.sleep(60)


def test_a_worker_that_outlives_its_run_holds_nothing(tmp_path):
    told = FORK.Queue()
    run = FORK.Process(target=hold_with_a_worker, args=(tmp_path, told))
    run.start()
    worker = told.get(timeout=30)
    run.kill()
    run.join()
    with locked(tmp_path):
        os.kill(worker, signal.SIGKILL)  # it was there still


@pytest.mark.parametrize("where", ["here", "elsewhere", "gone"])
def test_where_there_are_no_locks_the_record_counts(tmp_path, holder, monkeypatch, where):
    def unsupported(_descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", unsupported)
    record = json.loads((tmp_path / LOCK).read_text())
    if where == "elsewhere":
        (tmp_path / LOCK).write_text(json.dumps({**record, "host": "another"}))
    elif where == "gone":
        holder.kill()
        holder.join()
        with locked(tmp_path):
            return
    with pytest.raises(UserError, match=rf"if it has ended, delete {tmp_path}"), locked(tmp_path):
        pass


def test_a_run_removes_what_killed_ones_left_half_written_and_nothing_else(tmp_path):
    for name in (".ckpt_last.pth.host-12.part", ".mine.part", "a.part"):
        (tmp_path / name).touch()
    with one_run(tmp_path, World(0, 1, Precision(torch.float32, torch.device("cpu")))):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine.part", "a.part"]

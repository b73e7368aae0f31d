"""Checkpoint files where the disk is full, the process dies, or the file is big."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from processes import run_together

from realnet.errors import UserError
from realnet.models import checkpoint


class Killed(BaseException):
    """As a kill in the middle of a write: nothing handles it."""


@pytest.mark.parametrize("moment", ["os.fsync", "torch.save"])
def test_a_kill_in_the_middle_of_a_write_leaves_the_file_that_was_there(tmp_path, monkeypatch, moment):
    path = tmp_path / "ckpt.pth"
    checkpoint.write(path, {"step": 1})

    def die(*arguments):
        if moment == "torch.save":
            arguments[1].write(b"half of it")
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(moment, die)
        checkpoint.write(path, {"step": 2})
    assert checkpoint.read(path) == {"step": 1}
    checkpoint.write(path, {"step": 3})
    assert checkpoint.read(path) == {"step": 3} and list(tmp_path.iterdir()) == [path]


def test_the_file_before_is_kept_where_that_is_asked_for(tmp_path):
    path = tmp_path / "ckpt.pth"
    for step in (1, 2, 3):
        checkpoint.write(path, {"step": step}, keep_previous=True)
    assert checkpoint.read(path) == {"step": 3} and checkpoint.read(checkpoint.previous(path)) == {"step": 2}


def test_a_file_whose_archive_seems_to_span_disks_is_read_and_replaced(tmp_path):
    path = tmp_path / "ckpt.pth"
    checkpoint.write(path, {"step": 1})
    whole = path.read_bytes()
    path.write_bytes(whole[:-42] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2) + whole[-22:])
    assert checkpoint.read(path, mapped=True) == {"step": 1}
    checkpoint.write(path, {"step": 2}, keep_previous=True)
    assert checkpoint.read(path) == {"step": 2} and not checkpoint.previous(path).exists()


def fill_the_disk(path: Path) -> None:
    import resource

    checkpoint.write(path, {"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    try:
        checkpoint.write(path, {"step": 2, "weights": torch.ones(2**20)}, keep_previous=True)
    except UserError as error:
        print(error)
    assert checkpoint.read(path) == {"step": 1}
    assert list(path.parent.iterdir()) == [path], list(path.parent.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of a file's size")
def test_a_full_disk_is_reported_and_the_file_that_was_there_is_intact(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (ended,) = run_together(fill_the_disk, tmp_path / "full/ckpt.pth", world_size=1)
    assert ended.code == 0, ended.err
    told = ended.out
    assert "could not write" in told and "free some disk space" in told and "the previous file is intact" in told


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not write"):
        checkpoint.write(tmp_path / "file/ckpt.pth", {})


MEASURE = """
import re, sys
from pathlib import Path
import torch
from torch import nn
from realnet.models import checkpoint

def peak():  # MB; ru_maxrss would begin at the size of the process that started this one
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def network():
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(48)))

path, way = Path(sys.argv[1]), sys.argv[2]
start = peak()
stored = checkpoint.load(path, kind="realnet", mapped=way == "mapped")
print(peak() - start)
state = {key.removeprefix("rrs."): value for key, value in stored.state_dict.items()}
with torch.device("meta" if way == "own" else "cpu"):
    model = network()
checkpoint.load_into(model, state, str(path))
assert 0 < model(torch.ones(1, 1024)).sum().item() < 1e4
print(peak() - start)
"""


def measured(*arguments: object) -> str:
    """Run MEASURE in a process that nothing else has used: a forked one counts the pages that it takes over."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="measures the resident size as Linux counts it")
@pytest.mark.parametrize(("way", "read", "filled"), [("own", 1.1, 1.25), ("mapped", 0.1, 2.25)])
def test_a_big_file_costs_little_more_than_its_size(tmp_path, way, read, filled):
    # "mapped": the network's own memory, and the file's pages, which the system may drop at any time
    path = tmp_path / "big.pth"
    tensors = {f"module.rrs.{i}.weight": torch.full((1024, 1024), 1e-3) for i in range(48)}
    torch.save({"epoch": 1, "state_dict": tensors}, path)
    size = path.stat().st_size / 2**20
    after_reading, after_filling = map(float, measured(path, way).split())
    assert size > 190 and after_reading < read * size and after_filling < filled * size

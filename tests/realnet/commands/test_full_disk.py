"""What a computer lacks, disk or memory, ends with one message and exit code 2; lost logs end nothing."""

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import spoil
import torch
from conftest import load_script

from realnet.commands import cli
from realnet.sdas import image_folder
from realnet.training import logs as runs
from realnet.training.diffusion_task import DiffusionTask

TRAIN = ("train_diffusion", "--dataset", "tiny", "--set", "validation.respacing=ddim2")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.fixture
def refusal(tiny, capsys) -> Callable[..., str]:
    """Run a script as a command that fails; return its message."""

    def run(script: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            cli.run(partial(lambda given, _: load_script(script).main(given), arguments))
        told = capsys.readouterr().err
        assert end.value.code == 2 and told.count("error: ") == 1 and "Traceback" not in told, told
        return told.partition("error: ")[2]

    return run


def test_logs_that_cannot_be_written_have_gaps_and_the_training_goes_on(tiny, run_script, monkeypatch):
    whole, lines = runs._append, []

    def append(path: Path, line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise FULL
        whole(path, line)

    monkeypatch.setattr(runs, "_append", append)
    monkeypatch.setattr(runs, "write_whole_image", raising(FULL))
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", raising(FULL))
    printed = run_script(*TRAIN)
    assert printed.count("have gaps from here on ([Errno 28] No space left on device)") == 1
    log = Path("experiments/tiny/diffusion_log")
    assert (log / "metrics.jsonl").read_text() == "".join(line for line in lines if line != lines[1])
    assert "have gaps" in (log / "log.txt").read_text()
    assert Path("experiments/tiny/diffusion_checkpoints/ckpt_last.pth").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_log_file_that_cannot_be_written_costs_no_training(tiny, capsys):
    folder = Path("experiments/tiny/diffusion_log")
    folder.mkdir()
    (folder / "log.txt").symlink_to("/dev/full")
    load_script(TRAIN[0]).main(TRAIN[1:])
    printed = capsys.readouterr()
    assert "have gaps" in printed.out and "Traceback" not in printed.err
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()][-1] == 4


def test_a_line_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    runs._append(path, "one\n")

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            return self.file.write(data[:2])

    whole = Path.open
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(Path, "open", lambda *a, **k: Full(whole(*a, **k)))
        runs._append(path, "two\n")
    assert path.read_text() == "one\n"


def test_a_folder_for_the_logs_that_is_none_is_refused_before_the_first_step(refusal):
    Path("experiments/tiny/diffusion_log").write_text("no folder")
    assert "cannot write experiments/tiny/diffusion_log: " in refusal(*TRAIN)
    assert not Path("experiments/tiny/diffusion_checkpoints").exists()


def test_samples_that_cannot_be_written_leave_no_part(refusal, monkeypatch):
    spoil.diffusion()
    sample = ("sample", "--dataset", "tiny", "--classes", "weave")
    whole = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        whole(path, data[:100])
        raise FULL

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write)
        assert "cannot write data/tiny/sdas/weave/0000" in refusal(*sample)
    assert {path.name for path in Path("data/tiny/sdas/weave").iterdir()} == {"settings.yaml", ".images"}
    with monkeypatch.context() as patched:
        patched.setattr(image_folder.csv, "writer", raising(FULL))
        assert "cannot write data/tiny/sdas/weave/manifest.csv: No space left on device; free" in refusal(*sample)
    assert not list(Path("data/tiny/sdas").rglob("*.part"))
    Path("file").write_text("no folder")
    for more in ((), ("--dry-run",)):
        assert "--output file is a file; give a folder" in refusal(*sample, "--output", "file", *more)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"), "Tried to allocate 2 GiB)"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "you tried 9 bytes)"),
        (MemoryError(), "(MemoryError)"),
    ],
)
def test_too_little_memory_is_no_traceback(refusal, monkeypatch, error, says):
    monkeypatch.setattr(DiffusionTask, "losses", raising(error))
    told = refusal(*TRAIN)
    assert says in told and "train.accumulation" in told and "activation_checkpointing=true" in told


def test_too_little_shared_memory_says_what_helps(refusal, monkeypatch):
    error = RuntimeError("Caught RuntimeError in worker\nRuntimeError: unable to allocate shared memory(shm): no space")
    monkeypatch.setattr(DiffusionTask, "losses", raising(error))
    assert "lack shared memory (RuntimeError: unable" in (told := refusal(*TRAIN)) and "num_workers=0" in told


def test_any_other_file_that_cannot_be_written_is_named(refusal, monkeypatch):
    monkeypatch.setattr(DiffusionTask, "begin", raising(PermissionError(errno.EACCES, "Permission denied", "there")))
    assert refusal(*TRAIN).startswith("there: Permission denied; free space there, check its permissions")


def test_an_error_of_another_kind_keeps_its_traceback(tiny, capsys, monkeypatch):
    monkeypatch.setattr(DiffusionTask, "begin", raising(RuntimeError("a bug")))
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: load_script(TRAIN[0]).main(TRAIN[1:]))
    assert end.value.code == 1 and "Traceback" in capsys.readouterr().err

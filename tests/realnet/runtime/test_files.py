import multiprocessing
from pathlib import Path

import pytest

from realnet.errors import UserError
from realnet.runtime.files import whole_file


def write(path: Path, text: str, meet) -> None:
    with whole_file(path) as file:
        file.write(text)
        meet.wait(30)  # both have begun, and neither has ended


def test_two_processes_write_the_same_file(tmp_path):
    fork = multiprocessing.get_context("fork")
    meet = fork.Barrier(2)
    writers = [fork.Process(target=write, args=(tmp_path / "deep/metrics.json", text, meet)) for text in ("aa", "bbbb")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert (tmp_path / "deep/metrics.json").read_text() in {"aa", "bbbb"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["metrics.json"]


def test_what_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as file:
        file.write("new")
        file.write(str(1 / 0))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file/report.html", tmp_path / "file/deep/report.html"):
        with pytest.raises(UserError, match=r"cannot write .*report\.html: .*; free space there"), whole_file(path):
            pass


def test_names_that_are_not_utf8_are_written_with_backslashes(tmp_path):
    with whole_file(tmp_path / "a.txt") as file:
        file.write("Stra\udcdfe")
    assert (tmp_path / "a.txt").read_text() == "Stra\\udcdfe"

import os

import pytest

from realnet.runtime import contents
from realnet.runtime.contents import checksums, keep


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The files that were read, in order."""
    names: list[str] = []
    whole = contents._checksum
    monkeypatch.setattr(contents, "_checksum", lambda name: names.append(name) or whole(name))
    return names


def test_a_file_is_read_again_only_when_it_may_have_changed(tmp_path, read):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("1")
    first = checksums([a, b], tmp_path)
    assert first[0] == first[1] and sorted(read) == [str(a), str(b)]
    keep(tmp_path)
    assert checksums([b, a], tmp_path) == first and len(read) == 2
    times = a.stat()
    a.write_text("2")
    os.utime(a, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and cp -p set it
    second = checksums([a], tmp_path)
    assert second[0] != first[0] and checksums([a], tmp_path) == second and len(read) == 3
    a.touch()
    assert checksums([a], tmp_path) == second and len(read) == 4


def test_nothing_is_written_unasked_and_a_broken_store_costs_only_time(tmp_path):
    (tmp_path / "a").write_text("1")
    found = checksums([tmp_path / "a", tmp_path / "gone"], tmp_path)
    assert found[1] == "" and {path.name for path in tmp_path.iterdir()} == {"a"}
    for broken in ("", "[1]", '{"a": 3}'):
        (tmp_path / contents.STORE).write_text(broken)
        contents._new.clear()
        assert checksums([tmp_path / "a", tmp_path / "gone"], tmp_path) == found
    (tmp_path / "file").touch()
    assert checksums([tmp_path / "a"], tmp_path / "file") == found[:1]
    keep(tmp_path / "file")


def test_another_version_of_the_program_has_another_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "PACKAGES", tmp_path)
    source = tmp_path / "realnet/models/afs.py"
    source.parent.mkdir(parents=True)
    found = []
    for text in ("x = 1\n", "x = 2\n"):
        source.write_text(text)
        found.append(contents.code.__wrapped__())
    assert len(set(found)) == 2

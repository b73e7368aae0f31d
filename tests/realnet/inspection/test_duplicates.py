from pathlib import Path

from realnet.inspection import duplicates
from realnet.inspection.duplicates import same_content


def write(folder, **contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_equal_files_are_grouped(tmp_path):
    files = write(tmp_path, a=b"one", b=b"two", c=b"one", d=b"three", e=b"two", f=b"one")
    assert same_content(files) == [[0, 2, 5], [1, 4]]
    assert same_content([]) == []


def test_a_difference_outside_the_probe_is_seen(tmp_path):
    body = bytes(duplicates.PROBE_BYTES * 4)
    files = write(tmp_path, a=b"1" + body, b=b"2" + body, c=body + b"1")
    assert same_content(files) == []


def test_few_files_are_read_whole(tmp_path, monkeypatch):
    read = []
    digest = duplicates._digest
    monkeypatch.setattr(duplicates, "_digest", lambda path: read.append(Path(path).name) or digest(path))
    write(tmp_path, a=b"x" * 9000, b=b"y" * 9000, c=b"x" * 9001, d=b"z" * 500, e=b"z" * 500)
    assert same_content(sorted(tmp_path.iterdir())) == [[3, 4]]
    assert sorted(read) == ["d", "e"]

"""A watched folder: each photograph is judged once, when it is complete."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import tiny_detector
from prediction import TEST, predict, rows

from realnet.detection.detector import Detector
from realnet.errors import UserError
from realnet.prediction import watching


@pytest.fixture(autouse=True)
def trained(tiny):
    tiny_detector.save("weave")


@pytest.fixture
def between_looks(monkeypatch):
    """Run actions, one between any two looks at a watched folder; then Ctrl-C."""

    def between_looks(*actions):
        coming = iter([*actions, lambda: signal.raise_signal(signal.SIGINT)])
        monkeypatch.setattr(watching.time, "sleep", lambda _: next(coming)())

    return between_looks


def test_watching_judges_a_photograph_once_it_is_complete_and_each_once(between_looks, capsys):
    data = (TEST / "hole/000.png").read_bytes()
    come, late, third = (Path("come", name) for name in ("old.png", "late.png", "third.png"))
    come.parent.mkdir()
    come.write_bytes(data)
    (come.parent / "notes.txt").write_text("no photograph")
    looks: list[list[str]] = []
    between_looks(
        lambda: late.write_bytes(data[:50]),
        lambda: looks.append(list(rows(Path("found")))),
        lambda: late.write_bytes(data[:90]),  # it has been tried, and now comes on
        lambda: None,
        lambda: looks.append(list(rows(Path("found")))),
        lambda: late.write_bytes(data),
        lambda: third.write_bytes(data),
        lambda: looks.append(list(rows(Path("found")))),
        lambda: None,
    )
    assert predict("--watch", "come", "--output", "found") == 0
    assert looks == [["old.png"], ["old.png"], ["old.png", "late.png"]]
    assert list(rows(Path("found"))) == ["old.png", "late.png", "third.png"]
    assert "     3 defect\n" in capsys.readouterr().out


def test_watching_again_adds_the_new_ones_only(between_looks):
    Path("come").mkdir()
    for place in range(3):
        shutil.copy(TEST / "good/000.png", f"come/{place}.png")
        between_looks(lambda: None)
        if place == 2:  # a power cut
            with Path("found/predictions.csv").open("a") as file:
                file.write("2.png,0.")
        assert predict("--watch", "come", "--output", "found") == 0
    lines = Path("found/predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["file", "0.png", "1.png", "2.png"]
    lines = Path("found/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["0.png", "1.png", "2.png"]
    assert re.findall('data-file="(.*?)"', Path("found/predictions.html").read_text()) == ["0.png", "1.png", "2.png"]
    with pytest.raises(UserError, match=r"by the threshold 0\.65, and now it is 0\.7"):
        predict("--watch", "come", "--output", "found", "--threshold", 0.7)


def test_watching_stops_at_a_signal_with_all_that_is_begun_written(between_looks, monkeypatch):
    shutil.copytree(TEST, "come")
    whole_predict = Detector.predict

    def score(self, image, **how):
        signal.raise_signal(signal.SIGTERM)
        return whole_predict(self, image, **how)

    monkeypatch.setattr(Detector, "predict", score)
    between_looks(lambda: None)
    assert predict("--watch", "come", "--output", "found", "--batch_size", 1) == 0
    judged = list(rows(Path("found")))
    assert 1 <= len(judged) < 5
    assert judged == sorted(path.relative_to("found").as_posix() for path in Path("found").rglob("*.png"))


def test_watching_refuses_what_it_cannot_use():
    with pytest.raises(UserError, match="--watch nowhere is no folder"):
        predict("--watch", "nowhere")
    Path("come").mkdir()
    Path("found").mkdir()
    Path("found/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="found holds files that no prediction wrote"):
        predict("--watch", "come", "--output", "found")

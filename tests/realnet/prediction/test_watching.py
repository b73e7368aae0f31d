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


def test_a_folder_of_another_detectors_verdicts_gets_no_more(between_looks):
    Path("come").mkdir()
    shutil.copy(TEST / "good/000.png", "come")
    between_looks(lambda: None)
    assert predict("--watch", "come", "--output", "found") == 0
    tiny_detector.save("weave", seed=1)  # of the same threshold
    with pytest.raises(UserError, match=r"found holds verdicts of a detector other than .*ckpt_last\.pth is now"):
        predict("--watch", "come", "--output", "found")
    assert predict("--input", "come", "--output", "found") == 0  # begins anew
    between_looks(lambda: None)
    assert predict("--watch", "come", "--output", "found") == 0


def test_a_folder_of_other_photographs_verdicts_gets_no_more(between_looks):
    for folder in ("come", "other"):
        Path(folder).mkdir()
        shutil.copy(TEST / "good/000.png", folder)
    between_looks(lambda: None)
    assert predict("--watch", "come", "--output", "found") == 0
    between_looks()
    with pytest.raises(UserError, match=r"found holds verdicts on photographs in /\S+/come, and now they are in other"):
        predict("--watch", "other", "--output", "found")
    Path("link").symlink_to("come")
    between_looks(lambda: None)
    assert predict("--watch", "link", "--output", "found") == 0
    Path("found/.detector").write_text(Path("found/.detector").read_text().split("\n")[0])  # as version 1.0 left it
    between_looks(lambda: None)
    assert predict("--watch", "come", "--output", "found") == 0


@pytest.mark.parametrize(
    "content", [b"", b"file,score\na.png,0.5", b"\xff\xfe\n", b"file,image_score,threshold,verdict,seconds\na\n"]
)
def test_verdicts_of_another_maker_are_refused_and_stay(between_looks, content):
    shutil.copytree(TEST / "good", "come")
    table = Path("found/predictions.csv")
    table.parent.mkdir()
    table.write_bytes(content)
    for source in ("--watch", "--input") if not content.startswith(b"file,image_score") else ("--watch",):
        between_looks()
        with pytest.raises(UserError, match=r"found/predictions\.csv|found holds files"):
            predict(source, "come", "--output", "found")
    assert table.read_bytes() == content
    table.unlink()
    (table.parent / "predictions.html").write_text("mine")
    with pytest.raises(UserError, match=r"verdicts would replace found/predictions\.html"):
        predict("--input", "come", "--output", "found")
    assert (table.parent / "predictions.html").read_text() == "mine"


def test_folders_that_cannot_be_read_are_said_and_looked_at_again(between_looks, monkeypatch, capsys):
    shutil.copytree(TEST, "come")
    locked = ["hole"]

    def iterdir(path: Path, whole_iterdir=Path.iterdir):
        if path.name in locked:
            raise PermissionError(13, "Permission denied")
        return whole_iterdir(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    between_looks(lambda: None)
    assert predict("--watch", "come", "--output", "found") == 1
    assert "1 left out\ncannot read the folder come/hole: Permission denied\n" in capsys.readouterr().out
    between_looks(locked.clear, lambda: None)
    assert predict("--watch", "come", "--output", "found") == 0
    assert list(rows(Path("found")))[4:] == ["hole/000.png"]


def test_a_folder_whose_heatmaps_would_lie_among_masks_is_left_out(between_looks, capsys):
    for folder in ("come/masks", "come/maps"):
        shutil.copytree(TEST / "good", folder)
    shutil.copy(TEST / "hole/000.png", "come")
    between_looks(lambda: None)
    assert predict("--watch", "come", "--output", "found", "--save", "heatmaps", "masks") == 1
    printed = capsys.readouterr().out
    assert "2 left out\nthe heatmap of masks/000.png would lie among the masks; rename its folder, or" in printed
    assert sorted(rows(Path("found"))) == ["000.png", "maps/000.png", "maps/001.png"]


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

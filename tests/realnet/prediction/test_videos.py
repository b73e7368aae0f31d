"""Videos as input: which frames are predicted, and what of a damaged one."""

import re
from pathlib import Path

import cv2
import pytest
import tiny_detector
from prediction import TEST, predict, rows

from realnet.config import paths
from realnet.detection.detector import Detector
from realnet.errors import UserError


@pytest.fixture(autouse=True)
def trained(tiny):
    tiny_detector.save("weave")


def film(path: Path, number: int) -> None:
    """Write a video of the test images, again and again."""
    images = [cv2.imread(str(file)) for file in sorted(TEST.rglob("*.png"))]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, images[0].shape[1::-1])
    for place in range(number):
        video.write(images[place % len(images)])
    video.release()


def test_every_nth_frame_of_a_video_is_predicted_as_its_image_would_be(tiny):
    film(Path("clip.avi"), 8)
    assert predict("--input", "clip.avi", TEST / "good", "--every", 3, "--output", "found") == 0
    found = rows(Path("found"))
    frames = ["clip.avi#000000", "clip.avi#000003", "clip.avi#000006"]
    assert list(found) == [*frames, *(f"{TEST}/good/{number}.png" for number in ("000", "001"))]
    assert all(Path("found", f"{frame}.png").is_file() for frame in frames)
    detector = Detector.load(paths.output("tiny", "realnet", "checkpoints", "weave") / paths.LAST, device="cpu")
    video = cv2.VideoCapture("clip.avi")
    images = [cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB) for _ in range(8)]
    assert [float(found[frame]["image_score"]) for frame in frames] == [
        detector.predict(image).image_score for image in images[::3]
    ]


def test_damaged_videos_are_named_and_the_frames_before_the_damage_are_kept(tiny, capsys):
    Path("films").mkdir()
    film(Path("films/short.avi"), 40)
    whole = Path("films/short.avi").read_bytes()
    Path("films/short.avi").write_bytes(whole[: len(whole) // 2])
    Path("films/empty.mp4").write_text("nothing")
    assert predict("--input", "films/*", "--output", "found") == 1
    printed = capsys.readouterr().out
    assert re.search("cannot read the video .*films/empty.mp4", printed)
    assert re.search(r"films/short.avi is damaged: it ends after \d+ of its 40 frames", printed)
    assert 10 < len(rows(Path("found"))) < 30


def test_frames_replace_no_picture_that_no_prediction_wrote():
    film(Path("clip.avi"), 2)
    Path("found").mkdir()
    Path("found/clip.avi#000001.png").write_text("mine")
    with pytest.raises(UserError, match=r"clip\.avi#000001\.png"):
        predict("--input", "clip.avi", "--output", "found")
    assert Path("found/clip.avi#000001.png").read_text() == "mine"

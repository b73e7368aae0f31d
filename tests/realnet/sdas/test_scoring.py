"""Scores of a class's folder: in the manifest, computed once, and no reason to fail."""

import csv
import json
from pathlib import Path

import pytest
import spoil
from alone import ALONE

from realnet.anomalies.sources import find_sdas
from realnet.config import paths
from realnet.data.images import read_image, write_image
from realnet.data.registry import open_dataset
from realnet.errors import Stopped, UserError
from realnet.runtime.distributed import World
from realnet.sdas import descriptions, scoring
from realnet.sdas.scoring import Scorer

FOLDER = Path("data/tiny/sdas/weave")
SAMPLE = ("sample", "--dataset", "tiny", "--classes", "weave", "--num_samples", "4")
SCORES = ["nearest_normal", "nearest_earlier", "off_manifold", "rank"]


@pytest.fixture
def folder(tiny: Path) -> Path:
    """A folder of three test images of the class, as if they had been sampled."""
    for number, file in enumerate(sorted((tiny / "data/tiny/images/weave/test").rglob("*.png"))[:3]):
        write_image(FOLDER / f"{number}.png", read_image(file))
    return FOLDER


def score(world: World = ALONE) -> scoring.Quality | None:
    return Scorer(open_dataset("tiny"), (32, 32), world).score("weave", FOLDER, [f"{i}.png" for i in range(3)])


def rows() -> list[dict[str, str]]:
    with (FOLDER / paths.SDAS_MANIFEST).open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_stand_in_the_manifest_and_training_keeps_the_best(tiny, run_script):
    spoil.diffusion()
    printed = run_script(*SAMPLE)
    assert "distance of all images from normal ones" in printed and "are copies" in printed
    found = rows()
    assert list(found[0]) == ["file", "class", "seed", "strength", "checkpoint", *SCORES]
    assert sorted(int(row["rank"]) for row in found) == [1, 2, 3, 4]
    assert found[0]["nearest_earlier"] == "" and all(float(row["off_manifold"]) > 0 for row in found)
    best = sorted(row["file"] for row in found if int(row["rank"]) <= 3)
    assert [file.name for file in find_sdas("tiny", "weave", 0.8)] == best
    keep = ("--set", "anomalies.types={normal: 0.5, sdas: 0.5}", "--set", "anomalies.sdas_keep=0.8")
    run_script("train_realnet", "--dataset", "tiny", "--class_name", "weave", "--set", "train.num_steps=1", *keep)
    with pytest.raises(UserError, match=r"sdas_keep: 0\.8 then, 1\.0 now"):
        run_script("train_realnet", "--dataset", "tiny", "--class_name", "weave", *keep[:2])


def test_a_manifest_of_an_earlier_version_gives_all_images_and_asks_for_scores(folder):
    (folder / paths.SDAS_SETTINGS).touch()
    header = "file,class,seed,strength,checkpoint\n"
    lines = [f"{number}.png,weave,1,0.1,a model\n" for number in range(2)]
    (folder / paths.SDAS_MANIFEST).write_text(header + "".join(lines))
    assert [file.name for file in find_sdas("tiny", "weave")] == ["0.png", "1.png"]
    with pytest.raises(UserError, match=r"manifest\.csv has none; add them with: python sample\.py --dataset tiny"):
        find_sdas("tiny", "weave", 0.5)
    (folder / paths.SDAS_MANIFEST).unlink()
    with pytest.raises(UserError, match=r"no manifest\.csv of sample\.py; finish it with"):
        find_sdas("tiny", "weave", 0.5)


def test_scores_are_computed_once_for_each_content(folder, monkeypatch):
    first = score()
    stored = (folder / paths.SDAS_QUALITY).read_text()
    assert len(json.loads(stored)["scores"]) == 3
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "judge", None)
        assert score() == first
    write_image(folder / "1.png", read_image(folder / "0.png"))
    second = score()
    assert second.scores[1].nearest_earlier == pytest.approx(0, abs=1e-6) and second.scores[1].is_copy
    assert second.scores[0].nearest_normal == first.scores[0].nearest_normal


def test_what_was_described_before_a_signal_is_kept(folder, monkeypatch, caplog):
    monkeypatch.setattr(descriptions, "FILES_AT_ONCE", 4)
    asked, seen = World(0, 1, ALONE.precision), []
    read = descriptions.Describer._read_image
    monkeypatch.setattr(descriptions.Describer, "_read_image", lambda self, file: seen.append(file) or read(self, file))
    asked.stop.asked = True
    with caplog.at_level("INFO", "realnet"), pytest.raises(Stopped):
        score(asked)
    assert "run the same command again to continue" in caplog.text and len(seen) == 4
    whole = score()
    assert len(seen) == 9 and len(set(seen)) == 9  # three images of the folder and six normal ones, each once
    (folder / paths.SDAS_DESCRIPTIONS).unlink()
    (folder / paths.SDAS_QUALITY).unlink()
    monkeypatch.setattr(descriptions, "FILES_AT_ONCE", 512)
    assert score() == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: spoil.EXPERIMENT.joinpath("realnet.yaml").unlink(), "cannot read the config"),
        (
            lambda: spoil.EXPERIMENT.joinpath("realnet.yaml").write_text("backbone: {weights: absent.pth}"),
            "absent.pth does not exist",
        ),
        (lambda: spoil.cut(spoil.IMAGES / "weave/train/good/001.png"), "001.png"),
        (lambda: [file.unlink() for file in list((spoil.IMAGES / "weave/train/good").iterdir())[3:]], "too few"),
    ],
    ids=["no config", "no weights", "a damaged normal image", "few normal images"],
)
def test_what_is_missing_for_scores_costs_no_image(tiny, run_script, caplog, change, words):
    spoil.diffusion()
    change()
    printed = run_script(*SAMPLE[:-1], "2", "--no-guidance") + caplog.text
    assert "weave: 2 new images of 2" in printed
    assert list(rows()[0]) == ["file", "class", "seed", "strength", "checkpoint"]
    assert "WARNING: the images of class weave have no scores of quality: " in printed and words in printed

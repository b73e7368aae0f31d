"""Scores on planted failures, by the features of a random network on toy images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from alone import ALONE

from realnet.config import RealNetConfig
from realnet.data.images import Image, read_image, write_image
from realnet.errors import UserError
from realnet.preparation.toy import make_toy_dataset
from realnet.sdas.descriptions import Describer, describe_features
from realnet.sdas.quality import Descriptions, Quality, judge

CONFIG = RealNetConfig(
    image_size=32,
    backbone={"name": "test_resnet", "weights": "none"},
    blocks={"b1": {"levels": {"layer1": 8}}, "b2": {"levels": {"layer2": 8}}},
    rrs={"modes": {"max": 4}},
    evaluation={"score_pool": 4},
)
NUM_NORMAL, NUM_SOUND, NUM_BAD = 24, 16, 4


def part(described: Descriptions, places: slice) -> Descriptions:
    return Descriptions(described.appearance[places], described.layout[places])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, list[Image]]:
    """Normal images, sound samples (normal images of another draw with fine faults), and bad ones of each kind."""
    root = tmp_path_factory.mktemp("images")
    make_toy_dataset(root, image_size=(32, 32), num_train=NUM_NORMAL + NUM_SOUND, num_good=1, num_defects=1)
    weave, widget = (
        [read_image(file) for file in sorted((root / name / "train/good").iterdir())] for name in ("weave", "widget")
    )
    rng = np.random.default_rng(0)

    def noisy(image: Image, deviation: float) -> Image:
        return np.clip(image + rng.normal(0, deviation, image.shape), 0, 255).astype(np.uint8)

    return {
        "normal": weave[:NUM_NORMAL],
        "sound": [noisy(image, 4) for image in weave[NUM_NORMAL:]],
        "copies": [noisy(image, 1) for image in weave[:NUM_BAD]],
        "noise": [rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(NUM_BAD)],
        "another class": widget[:NUM_BAD],
        "one image again and again": [noisy(weave[NUM_NORMAL], 4) for _ in range(NUM_BAD)],
    }


@pytest.fixture(scope="module")
def described(images, tmp_path_factory) -> dict[str, Descriptions]:
    folder, names = tmp_path_factory.mktemp("files"), []
    for kind, pictures in images.items():
        for number, picture in enumerate(pictures):
            names.append(folder / f"{kind} {number}.png")
            write_image(names[-1], picture)
    every = Describer(CONFIG, (32, 32), ALONE, image_bits=16).describe(names, folder, "test")
    counts = np.cumsum([0, *(len(pictures) for pictures in images.values())])
    places = map(slice, counts[:-1].tolist(), counts[1:].tolist())
    return {kind: part(every, place) for kind, place in zip(images, places, strict=True)}


def judged(described: dict[str, Descriptions], *kinds: str) -> Quality:
    parts = [described[kind] for kind in kinds]
    joined = Descriptions(*(torch.cat([getattr(p, name) for p in parts]) for name in ("appearance", "layout")))
    return judge(joined, described["normal"])


@pytest.mark.parametrize("bad", ["copies", "noise", "another class", "one image again and again"])
def test_the_best_share_holds_no_planted_failure(described, bad):
    scores = judged(described, "sound", bad).scores
    ranks = [score.rank for score in scores]
    assert sorted(ranks) == list(range(1, NUM_SOUND + NUM_BAD + 1))
    assert sorted(ranks[NUM_SOUND:]) == list(range(NUM_SOUND + 1, NUM_SOUND + NUM_BAD + 1))
    assert [score.is_copy for score in scores[:NUM_SOUND]] == [False] * NUM_SOUND
    assert all(score.is_copy == (bad in {"copies", "one image again and again"}) for score in scores[NUM_SOUND:])


def test_each_failure_shows_in_its_own_score(described):
    sound = judged(described, "sound")
    assert sound.scores[0].nearest_earlier is None
    for kind in ("noise", "another class"):
        assert min(score.off_manifold for score in judged(described, kind).scores) > 2 * sound.widest
    assert max(score.nearest_normal for score in judged(described, "copies").scores) < 0.5
    again = judged(described, "one image again and again").scores[1:]
    assert max(score.nearest_earlier for score in again) < 0.5 < min(score.nearest_normal for score in again)


def test_normal_images_have_the_scores_that_the_units_promise(described):
    normal = described["normal"]
    halves = judge(part(normal, slice(0, None, 2)), part(normal, slice(1, None, 2)))
    for name in ("nearest_normal", "off_manifold"):
        assert 0.6 < np.median([getattr(score, name) for score in halves.scores]) < 1.6, name
    assert halves.realism is not None and halves.realism.low < 0 < halves.realism.high


def test_a_normal_image_counts_once_however_often_it_is_there(described):
    normal, once = described["normal"], judged(described, "sound")
    number = torch.arange(NUM_NORMAL)
    for places in (torch.cat([number, number]), torch.cat([number, number[:1].expand(40)])):
        assert judge(described["sound"], Descriptions(normal.appearance[places], normal.layout[places])) == once
    few = torch.cat([number[:3], number[2:3].expand(20)])
    with pytest.raises(UserError, match="3 different normal images are too few to compare with"):
        judge(described["sound"], Descriptions(normal.appearance[few], normal.layout[few]))


def test_realism_of_the_folder_falls_with_every_failure_and_says_how_sure_it_is(described):
    sound = judged(described, "sound").realism
    for kind in ("noise", "another class", "one image again and again"):
        bad = judged(described, kind).realism
        assert bad.value > sound.high and bad.low > 0, kind
    assert judge(part(described["sound"], slice(0, 2)), described["normal"]).realism is None


def test_the_order_of_the_first_images_does_not_depend_on_later_ones(described):
    few, all_of_them = judged(described, "sound").scores, judged(described, "sound", "noise").scores
    for before, after in zip(few, all_of_them, strict=False):
        assert (before.nearest_normal, before.nearest_earlier) == (after.nearest_normal, after.nearest_earlier)
        assert before.off_manifold == pytest.approx(after.off_manifold)


def test_layout_knows_where_and_appearance_only_what():
    maps = {"fine": torch.rand(2, 8, 8, 8), "wide": torch.rand(2, 300, 4, 4)}
    moved = {name: values.roll((2, 2), dims=(2, 3)) for name, values in maps.items()}
    before, after = (describe_features(each, ["fine", "wide"]) for each in (maps, moved))
    assert before.shape == (2, 2, 2, 128)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).norm() > 0.1 * before[:, 1].norm()
    torch.testing.assert_close(before[:, 0, 0, :8], maps["fine"].mean(dim=(2, 3)))


def test_descriptions_are_made_once_for_each_content(images, tmp_path, monkeypatch):
    describer, seen = Describer(CONFIG, (32, 32), ALONE, image_bits=16), []
    read = Describer._read_image
    monkeypatch.setattr(Describer, "_read_image", lambda self, file: seen.append(file.name) or read(self, file))
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, picture in zip(files, images["sound"], strict=False):
        write_image(file, picture)
    first = describer.describe(files, tmp_path, "test")
    again = Describer(CONFIG, (32, 32), ALONE, image_bits=16).describe(files[::-1], tmp_path, "test")
    assert seen == ["0.png", "1.png", "2.png"] and torch.equal(first.layout, again.layout.flip(0))
    write_image(files[1], images["noise"][0])
    alone = describer.describe(files[1:2], tmp_path, "test")
    together = Describer(CONFIG, (32, 32), ALONE, image_bits=16).describe(files, Path(tmp_path / "new"), "test")
    assert seen[3:] == ["1.png", "0.png", "1.png", "2.png"]
    assert torch.equal(alone.layout[0], together.layout[1])  # whatever is beside it
    (tmp_path / ".descriptions.npz").write_bytes(b"cut")
    assert torch.equal(describer.describe(files[1:2], tmp_path, "test").layout, alone.layout)

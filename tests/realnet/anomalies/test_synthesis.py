from pathlib import Path

import cv2
import numpy as np
import pytest

from realnet.anomalies import synthesis
from realnet.anomalies.foreground import foreground_mask
from realnet.anomalies.sources import find_sdas
from realnet.anomalies.synthesis import AnomalySynthesizer, blend, build_synthesizer, in_photograph
from realnet.config import AnomalyConfig, DatasetConfig, ForegroundRule, paths
from realnet.data.images import read_image, resize_image, write_image
from realnet.data.registry import OpenDataset
from realnet.data.tiles import Tiling
from realnet.errors import UserError
from tests import golden
from tests.closed_form import wave

SIZE = (32, 40)
IMAGE = ((wave("image", *SIZE, 3).numpy() + 1) * 100).astype(np.uint8)
HALF = ForegroundRule()  # of DARK_AND_BRIGHT: its right half
DARK_AND_BRIGHT = np.repeat(np.where(np.arange(40) < 20, 20, 220)[None, :, None], 32, axis=0).repeat(3, axis=2)
DARK_AND_BRIGHT = DARK_AND_BRIGHT.astype(np.uint8)


@pytest.mark.parametrize("path", golden.paths("data", "blend"))
def test_golden_blend(path):
    case = golden.load(path)
    image, source, mask = (golden.evaluate(case.run[key]) for key in ("image", "source", "mask"))
    assert np.array_equal(blend(image, source, mask, case.run["transparency"]), case.outputs["blended"])


def test_own_figures():
    image, source = np.full((2, 3, 3), 100, np.uint8), np.full((2, 3, 3), (250, 99, 0), np.uint8)
    mask = np.array([[True, False, False], [False, True, True]])
    blended = blend(image, source, mask, 0.75)
    assert blended[mask].tolist() == [[212, 99, 25]] * 3
    assert blended[~mask].tolist() == [[100, 100, 100]] * 3
    assert (image == 100).all()


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    found = [tmp_path / f"{number}.png" for number in range(3)]
    for path in found:
        write_image(path, rng.integers(0, 256, (48, 48, 3)).astype(np.uint8))
    return found


def make(files, foreground="full", **config):
    sources = {"sdas": files, "dtd": files}
    return AnomalySynthesizer(AnomalyConfig(**config), sources, image_size=SIZE, foreground=foreground)


def draw(synthesizer, count, image=IMAGE, **options):
    return [synthesizer.synthesize(image, np.random.default_rng(seed), **options) for seed in range(count)]


@pytest.mark.parametrize("kind", ["sdas", "dtd", "self"])
def test_untouched_pixels_stay_and_the_original_is_not_written(files, kind):
    before = IMAGE.copy()
    for anomaly in draw(make(files, types={kind: 1}), 10):
        assert anomaly.kind == kind
        assert anomaly.mask.any()
        assert np.array_equal(anomaly.image[~anomaly.mask], IMAGE[~anomaly.mask])
        assert not np.array_equal(anomaly.image, IMAGE)
        assert (anomaly.source is None) == (kind == "self")
        assert set(anomaly.periods) <= {1, 2, 4, 8, 16, 32}
    assert np.array_equal(IMAGE, before)


def test_what_is_pasted_is_the_source_at_its_opacity(files):
    drawn = draw(make(files, types={"sdas": 1}), 40)
    for anomaly in drawn:
        expected = blend(IMAGE, resize_image(read_image(anomaly.source), SIZE), anomaly.mask, anomaly.opacity)
        assert np.array_equal(anomaly.image, expected)
    assert {anomaly.source for anomaly in drawn} == set(files)
    assert 0.5 <= min(a.opacity for a in drawn) < 0.6 < 0.9 < max(a.opacity for a in drawn) <= 1


@pytest.mark.parametrize(
    ("kind", "changes"), [("sdas", []), ("dtd", ["augmented"]), ("self", ["augmented", "shuffled"])]
)
def test_each_kind_of_source_is_changed_in_its_way(files, monkeypatch, kind, changes):
    applied = []
    monkeypatch.setattr(synthesis, "augment_texture", lambda image, rng: applied.append("augmented") or image)
    monkeypatch.setattr(synthesis, "shuffle_grid", lambda image, rng: applied.append("shuffled") or 255 - image)
    draw(make(files, types={kind: 1}), 1)
    assert applied == changes


def test_the_same_generator_gives_the_same_anomaly(files):
    synthesizer = make(files, types={"sdas": 1, "dtd": 1, "self": 1, "normal": 1})
    for first, second in zip(draw(synthesizer, 20), draw(synthesizer, 20), strict=True):
        assert np.array_equal(first.image, second.image)
        assert (first.kind, first.source, first.opacity) == (second.kind, second.source, second.opacity)


def test_types_follow_their_weights(files):
    synthesizer = make(files, types={"normal": 2, "sdas": 6, "dtd": 2, "self": 0})
    kinds = [anomaly.kind for anomaly in draw(synthesizer, 500)]
    assert kinds.count("normal") / 500 == pytest.approx(0.2, abs=0.05)
    assert kinds.count("sdas") / 500 == pytest.approx(0.6, abs=0.06)
    assert "self" not in kinds


def test_afs_draws_no_normal_items_and_the_others_alike(files):
    synthesizer = make(files, types={"normal": 0.9, "sdas": 0.08, "dtd": 0.02})
    kinds = [anomaly.kind for anomaly in draw(synthesizer, 600, only_anomalous=True)]
    assert set(kinds) == {"sdas", "dtd"}
    assert kinds.count("sdas") / 600 == pytest.approx(0.5, abs=0.08)


def test_normal_items_are_clean(files):
    for anomaly in draw(make(files, types={"normal": 1, "sdas": 1}), 20):
        if anomaly.kind == "normal":
            assert np.array_equal(anomaly.image, IMAGE)
            assert not anomaly.mask.any()
            assert (anomaly.source, anomaly.opacity) == (None, 0)


def test_anomalies_lie_on_the_foreground(files):
    for anomaly in draw(make(files, foreground=HALF, types={"self": 1}), 20, image=DARK_AND_BRIGHT):
        assert anomaly.mask[:, 20:].any()
        assert not anomaly.mask[:, :20].any()


def test_empty_masks_are_redrawn_a_bounded_number_of_times(files, monkeypatch):
    calls = []

    def third_time(shape, rng, *, periods, threshold):
        calls.append(periods)
        return np.full(shape, len(calls) == 3)

    monkeypatch.setattr(synthesis, "perlin_mask", third_time)
    synthesizer = make(files, types={"sdas": 1})
    assert synthesizer.synthesize(IMAGE, np.random.default_rng(0)).mask.all()
    assert len(calls) == 3
    anomaly = synthesizer.synthesize(IMAGE, np.random.default_rng(0))
    assert len(calls) == 3 + synthesis.MAX_MASK_DRAWS
    assert anomaly.kind == "normal"
    assert np.array_equal(anomaly.image, IMAGE)


def test_an_image_without_foreground_stays_clean(files):
    flat = np.zeros((*SIZE, 3), np.uint8)
    assert draw(make(files, foreground=HALF, types={"sdas": 1}), 1, image=flat)[0].kind == "normal"


def test_missing_sources_name_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    sdas, dtd = AnomalyConfig(), AnomalyConfig(types={"dtd": 1}, dtd_root=str(tmp_path / "DTD"))
    metal = OpenDataset("metal", DatasetConfig(image_root=str(tmp_path)), ("nut",))
    with pytest.raises(UserError, match=r"python sample\.py --dataset metal --classes nut$"):
        build_synthesizer(sdas, metal, "nut", image_size=SIZE)
    with pytest.raises(UserError, match=r"DTD holds none.*anomalies\.dtd_root"):
        build_synthesizer(dtd, metal, "nut", image_size=SIZE)
    alone = AnomalyConfig(types={"self": 1, "sdas": 0})
    assert build_synthesizer(alone, metal, "nut", image_size=SIZE).sources == {}


def test_sources_are_found_sorted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    folder = tmp_path / "metal" / "sdas" / "nut"
    for name in ("b.jpg", "a.png", "manifest.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert find_sdas("metal", "nut") == [folder / "a.png", folder / "b.jpg"]
    (folder / "settings.yaml").touch()  # as sample.py leaves it
    (folder / "manifest.csv").write_text("file,class\nb.jpg,nut\n")
    assert find_sdas("metal", "nut") == [folder / "b.jpg"] and not caplog.text
    (folder / "manifest.csv").unlink()
    assert len(find_sdas("metal", "nut")) == 2
    assert "unfinished, with 2 images so far; finish it with: python sample.py --dataset metal" in caplog.text
    (tmp_path / "DTD" / "dotted").mkdir(parents=True)
    (tmp_path / "DTD" / "dotted" / "x.jpg").touch()
    assert synthesis.find_textures(Path(tmp_path / "DTD")) == [tmp_path / "DTD" / "dotted" / "x.jpg"]


def test_few_regions_are_kept_whole():
    mask = np.zeros((20, 20), np.bool_)
    for corner in (0, 5, 10, 15):
        mask[corner : corner + 3, corner : corner + 3] = True
    mask[3, 3] = True  # touches the first by a corner
    kept = [synthesis.keep_regions(mask, 2, np.random.default_rng(seed)) for seed in range(40)]
    assert {int(part.sum()) for part in kept} == {18, 19}
    assert all((part & ~mask).sum() == 0 for part in kept)
    assert np.logical_or.reduce(kept).sum() == mask.sum()
    assert np.array_equal(synthesis.keep_regions(mask, 4, np.random.default_rng(0)), mask)


def test_max_regions_bounds_the_regions_of_each_anomaly(files):
    few = draw(make(files, types={"self": 1}, max_regions=3, min_perlin_scale=2, perlin_scale=4), 30)
    numbers = {cv2.connectedComponents(anomaly.mask.view(np.uint8))[0] - 1 for anomaly in few}
    assert numbers == {1, 2, 3}


def test_what_cannot_be_seen_is_no_anomaly():
    image, mask = np.full((8, 16, 3), 100, np.uint8), np.ones((8, 16), np.bool_)
    pasted = image.copy()
    pasted[:, 8:] += 20
    visible = synthesis.visible_part(mask, image, pasted, 15)
    assert not visible[:, :8].any()
    assert visible[:, 10:].all()
    lone = np.zeros_like(mask)
    lone[4, 12] = True  # its contrast is that of its own pixels, however few
    assert synthesis.visible_part(lone, image, pasted, 15)[4, 12]


def test_min_contrast_leaves_invisible_pastes_out(files):
    flat = np.full((*SIZE, 3), 128, np.uint8)
    write_image(files[0], flat)
    synthesizer = AnomalySynthesizer(
        AnomalyConfig(types={"sdas": 1}, min_contrast=5), {"sdas": files[:1]}, image_size=SIZE
    )
    assert {anomaly.kind for anomaly in draw(synthesizer, 10, image=flat)} == {"normal"}
    assert "sdas" in {anomaly.kind for anomaly in draw(synthesizer, 10, image=flat // 2)}


def test_anomalies_of_a_grey_image_are_grey(files):
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    for anomaly in draw(make(files, types={"self": 1}), 20, image=grey):
        assert (anomaly.image == anomaly.image[..., :1]).all()
    coloured = draw(make(files, types={"self": 1}), 20)
    assert any((anomaly.image != anomaly.image[..., :1]).any() for anomaly in coloured)


TILING = Tiling(SIZE, (16, 16), 0.25)


def test_with_tiles_an_anomaly_is_drawn_on_a_tile_at_its_scale(files):
    sources = {"sdas": files, "dtd": files}
    for kind in ("sdas", "dtd", "self"):
        config = AnomalyConfig(types={kind: 1})
        synthesizer = AnomalySynthesizer(config, sources, image_size=SIZE, tiling=TILING)
        anomalies = draw(synthesizer, 12)
        assert len({anomaly.corner for anomaly in anomalies}) > 4
        for anomaly in anomalies:
            clean = TILING.cut(IMAGE, anomaly.corner)
            assert anomaly.image.shape == (16, 16, 3) and anomaly.mask.shape == (16, 16)
            assert (anomaly.image[~anomaly.mask] == clean[~anomaly.mask]).all()


def test_clean_tiles_lie_anywhere(files):
    synthesizer = AnomalySynthesizer(
        AnomalyConfig(types={"normal": 1e9, "self": 1e-9}), {}, image_size=SIZE, tiling=TILING
    )
    anomalies = draw(synthesizer, 30)
    assert {anomaly.kind for anomaly in anomalies} == {"normal"} and len({anomaly.corner for anomaly in anomalies}) > 10
    assert all((anomaly.image == TILING.cut(IMAGE, anomaly.corner)).all() for anomaly in anomalies)


def test_with_tiles_the_rule_sees_the_whole_photograph_and_tiles_without_foreground_get_no_anomaly(files):
    levels = np.repeat([20, 120, 220], [10, 10, 20]).astype(np.uint8)
    photograph = np.ascontiguousarray(np.broadcast_to(levels[None, :, None], (32, 40, 3)))
    seen_alone = foreground_mask(np.ascontiguousarray(photograph[:16, 5:21]), HALF)
    assert foreground_mask(photograph, HALF)[0].tolist() == [False] * 20 + [True] * 20 and seen_alone[0, 5:15].all()
    config = AnomalyConfig(types={"self": 1}, min_perlin_scale=2)
    synthesizer = AnomalySynthesizer(config, {}, image_size=SIZE, foreground=HALF, tiling=TILING)
    drawn = draw(synthesizer, 30, photograph)
    for anomaly in drawn:
        _, mask = in_photograph(anomaly, photograph, TILING)
        assert not mask[:, :20].any() and anomaly.corner[1] > 4
    assert sum(anomaly.mask.any() for anomaly in drawn) > 20


def test_an_anomaly_of_a_tile_takes_its_place_in_the_photograph(files):
    synthesizer = AnomalySynthesizer(AnomalyConfig(types={"self": 1}), {}, image_size=SIZE, tiling=TILING)
    for anomaly in draw(synthesizer, 5):
        image, mask = in_photograph(anomaly, IMAGE, TILING)
        assert (TILING.cut(image, anomaly.corner) == anomaly.image).all() and mask.sum() == anomaly.mask.sum()
        assert (image[~mask] == IMAGE[~mask]).all()

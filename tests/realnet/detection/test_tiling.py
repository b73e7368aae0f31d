"""Photographs that are judged tile by tile."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_detector
import torch
from alone import ALONE, FP32, denormalise

from realnet import Detector
from realnet.anomalies.synthesis import AnomalySynthesizer
from realnet.config import EvaluationConfig, ForegroundRule, RealNetConfig, RuntimeConfig
from realnet.data.images import to_batch, write_image
from realnet.data.index import Entry
from realnet.data.tiles import Tiling, tiling_of
from realnet.detection.calibration import calibrate
from realnet.detection.examples import draw_examples, draw_probes
from realnet.detection.maps import anomaly_maps
from realnet.detection.runtimes import TorchRuntime
from realnet.detection.tiling import TileJudge, rule_facts, rule_of
from realnet.evaluation.files import TestFiles
from realnet.evaluation.scores import score_split
from realnet.evaluation.split import TestSplit
from realnet.models import checkpoint

CONFIG = EvaluationConfig(batch_size=3, score_pool=4)


class Brightness(torch.nn.Module):
    """A detector whose map is the image's brightness, of 16 x 16 pixels at a time."""

    def forward(self, image):
        assert image.shape[-2:] == (16, 16) and len(image) <= 3 and not self.training
        return SimpleNamespace(anomaly_map=denormalise(image)[:, :1] / 255, scored=None)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(16, 16), (40, 52), (12, 40)])
def test_the_map_of_what_sees_each_pixel_alone_is_that_of_the_photograph(size):
    photograph, tiling = noise(*size), Tiling(size, (16, 16), 0.25)
    found, score, skipped = TileJudge(tiling, CONFIG).judge(photograph, TorchRuntime(Brightness().eval(), FP32))
    assert skipped == 0
    brightness = photograph[..., 0] / 255
    np.testing.assert_allclose(found, brightness, atol=1e-6)
    windows = np.lib.stride_tricks.sliding_window_view(brightness, (4, 4))
    assert score == pytest.approx(windows.mean(axis=(2, 3)).max(), abs=1e-6)  # also those over the edges of tiles


def four_times(tile, overlap):
    """A photograph of which all 2 x 2 tiles of the grid are ``tile``, whose last pixels are its first ones."""
    step = tile.shape[0] - overlap
    whole = np.tile(tile[:step, :step], (3, 3, 1))
    return whole[: step + tile.shape[0], : step + tile.shape[1]]


@pytest.mark.parametrize("overlap", [0, 8])
def test_one_tile_four_times_has_the_tiles_map_four_times(tiny, overlap):
    model = tiny_detector.build()
    tile = noise(32, 32)
    tile[32 - overlap :], tile[:, 32 - overlap :] = tile[:overlap], tile[:, :overlap]
    (alone,) = anomaly_maps(model, to_batch([tile]), FP32).arrays()
    photograph = four_times(tile, overlap)
    tiling = Tiling(photograph.shape[:2], (32, 32), overlap / 32)
    assert len(tiling) == 4
    found = TileJudge(tiling, CONFIG).judge(photograph, TorchRuntime(model, FP32)).anomaly_map
    inside = slice(overlap, 32 - overlap)
    for row, column in tiling.corners:
        mine = found[row : row + 32, column : column + 32]
        np.testing.assert_allclose(mine[inside, inside], alone[0, inside, inside], atol=1e-5)
        if row == 0:  # at the photograph's edge, too
            np.testing.assert_allclose(mine[0, inside], alone[0, 0, inside], atol=1e-5)


def tiled(config=None, **changes):
    values = (config or tiny_detector.config()).model_dump(mode="json")
    return RealNetConfig.model_validate({**values, "image_size": [48, 72], "tiles": {"size": 32}, **changes})


def save(config, model):
    """Write a detector with tiles as a checkpoint."""
    path = tiny_detector.save("weave")
    stored = torch.load(path, weights_only=True)
    stored["config"], stored["state_dict"] = config.model_dump(mode="json"), model.trainable_state()
    checkpoint.write(path, stored)
    return path


def test_a_loaded_detector_judges_by_tiles(tiny):
    model = tiny_detector.build()
    detector = Detector.load(save(tiled(), model), device="cpu")
    assert detector.config.tiles == tiled().tiles and detector.calibration == tiny_detector.CALIBRATION
    photograph = noise(48, 72)
    by_tiles = TileJudge(Tiling((48, 72), (32, 32), 0.25), detector.config.evaluation)
    expected, score, _ = by_tiles.judge(photograph, TorchRuntime(model, FP32))
    found = detector.predict(photograph)
    np.testing.assert_allclose(found.anomaly_map, expected, atol=1e-5)
    assert found.image_score == pytest.approx(score, abs=1e-5)
    assert detector.predict(noise(20, 24)).anomaly_map.shape == (20, 24)


def test_a_test_split_is_scored_at_the_photographs_size_in_batches_of_tiles(tmp_path):
    entries = [Entry(f"{number}.png", 0, "", "c") for number in range(3)]
    for number in range(3):
        write_image(tmp_path / f"{number}.png", noise(40, 52, number))
    split = TestSplit(TestFiles(entries, tmp_path, (40, 52)), runtime=RuntimeConfig(num_workers=0), world=ALONE)
    tiling = Tiling((40, 52), (16, 16), 0.25)
    scores = score_split(Brightness(), split, config=CONFIG, precision=FP32, by_tiles=TileJudge(tiling, CONFIG))
    assert scores.anomaly_maps.shape == (3, 40, 52)
    for number in range(3):
        np.testing.assert_allclose(scores.anomaly_maps[number], noise(40, 52, number)[..., 0] / 255, atol=1e-6)


RIGHT = ForegroundRule(polarity="bright")  # of what `half_bright` draws


def half_bright(folder, number=3):
    """Photographs of 40 x 64 pixels with a bright right half, and a synthesizer of anomalies on it."""
    for index in range(number):
        image = np.full((40, 64, 3), 20 + index, np.uint8)
        image[:, 32:] = 100 + noise(40, 32, index) // 32
        write_image(folder / f"{index}.png", image)
    config = RealNetConfig.model_validate(
        {
            "image_size": [40, 64],
            "tiles": {"size": 16},
            "anomalies": {"types": {"self": 1}, "min_perlin_scale": 1, "perlin_scale": 3},
            "calibration": {"num_anomalies": 12},
            "evaluation": {"score_pool": 2, "batch_size": 3},
        }
    )
    synthesizer = AnomalySynthesizer(
        config.anomalies, {}, image_size=(40, 64), foreground=RIGHT, tiling=tiling_of(config)
    )
    return config, [Entry(f"{index}.png", 0, "good", "c") for index in range(number)], synthesizer


def test_calibration_judges_whole_photographs_with_anomalies_of_a_tiles_scale(tmp_path):
    config, entries, synthesizer = half_bright(tmp_path)
    examples = draw_examples(entries, tmp_path, synthesizer, config)
    assert len(examples.normal) == 3 and len(examples.anomalous) == len(examples.masks) > 6
    for number, (image, mask) in enumerate(zip(examples.anomalous, examples.masks, strict=True)):
        rows, columns = np.nonzero(mask)
        assert np.ptp(rows) < 16 and np.ptp(columns) < 16 and columns.min() >= 31, number
        original = min(examples.normal, key=lambda one: np.abs(one[:, :31].astype(int) - image[:, :31]).sum())
        assert (image[~mask] == original[~mask]).all()
    by_tiles = TileJudge.of(config, RIGHT)
    found = calibrate(Brightness(), examples, config=config, world=ALONE, held_out=True, by_tiles=by_tiles)
    assert found.num_images == 3 and 100 / 255 < found.image_threshold <= 1


def test_fusion_sees_tiles_with_probes_on_the_foreground_of_the_photograph(tmp_path):
    config, entries, synthesizer = half_bright(tmp_path)
    probes = draw_probes(draw_examples(entries, tmp_path, synthesizer, config), synthesizer, config)
    assert len(probes.normal) == 3 * len(tiling_of(config)) and len(probes.anomalous) == len(probes.masks) > 6
    assert all(image.shape == (16, 16, 3) for image in (*probes.normal, *probes.anomalous))
    assert probes.masks.shape[1:] == (16, 16) and probes.masks.any(axis=(1, 2)).all()
    assert not probes.masks[:, [0, 1, -2, -1]].any() and not probes.masks[:, :, [0, 1, -2, -1]].any()
    assert all(image[mask].min() > 40 for image, mask in zip(probes.anomalous, probes.masks, strict=True))


def test_tiles_far_from_the_foreground_are_not_judged_but_counted(monkeypatch):
    photograph = np.full((40, 160, 3), 20, np.uint8)
    photograph[:, 128:] = 220
    tiling, network = Tiling((40, 160), (16, 16), 0.25), TorchRuntime(Brightness().eval(), FP32)
    found, _, skipped = TileJudge(tiling, CONFIG, RIGHT).judge(photograph, network)
    expected = photograph[..., 0] / 255
    np.testing.assert_allclose(found[:, 112:], expected[:, 112:], atol=1e-6)  # within a tile's side, too
    assert (found[:, :80] == 0).all() and 0 < skipped < len(tiling)
    monkeypatch.setattr("realnet.detection.tiling.foreground_mask", lambda image, rule: np.zeros(image.shape[:2], bool))
    for rule in ("full", RIGHT):  # everything is foreground; the rule finds none
        found, _, skipped = TileJudge(tiling, CONFIG, rule).judge(photograph, network)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert skipped == 0


@pytest.mark.parametrize("rule", ["full", "auto", RIGHT])
def test_a_detectors_file_holds_the_rule_of_its_tiles(tiny, rule):
    facts = json.loads(json.dumps(rule_facts(tiled(), rule)))
    assert rule_of(facts) == rule and rule_facts(tiny_detector.config(), rule) == {}
    assert rule_of({}) == "full"  # judges every tile
    assert TileJudge.of(tiled(), rule).rule == rule and TileJudge.of(tiny_detector.config(), rule) is None

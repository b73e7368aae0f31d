import numpy as np
import pytest
import torch
from alone import ALONE

from realnet.config import RealNetConfig
from realnet.detection import fusion
from realnet.detection.examples import Examples
from realnet.detection.maps import AnomalyMaps
from realnet.models.normal import SIGNALS, Fusion

CONFIG = RealNetConfig.model_validate({"image_size": 32, "evaluation": {"batch_size": 4}})


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fusion = Fusion((32, 32), has_deep=True)


def examples(number=16):
    """Dark normal images, and as many with a bright square."""
    normal = [np.full((32, 32, 3), 10, np.uint8) for _ in range(number)]
    masks = np.zeros((number, 32, 32), bool)
    for index in range(number):
        masks[index, 8:16, 8 + index : 16 + index] = True
    return Examples(normal, [np.where(mask[..., None], 200, normal[0]).astype(np.uint8) for mask in masks], masks)


def fitted(monkeypatch, quality):
    """Fit a fusion to signals that see the square with this quality each: the square's height over unit noise."""
    generator = np.random.default_rng(0)

    def signal_maps(_model, batch, _world):
        bright = (batch.mean(dim=1).numpy() > 0)[:, None]  # (B, 1, 32, 32)
        noise = generator.normal(5, 2, (len(batch), len(SIGNALS), 32, 32))
        return (noise + 2 * np.array(quality)[:, None, None] * bright).astype(np.float32)

    monkeypatch.setattr(fusion, "signal_maps", signal_maps)
    model = Model()
    fusion.fit_fusion(model, examples(), config=CONFIG, world=ALONE, description="")
    return model.fusion


def test_each_signal_is_measured_in_deviations_of_normal_images(monkeypatch):
    found = fitted(monkeypatch, (9, 9, 9, 9, 9))
    assert found.centres.numpy() == pytest.approx(np.full((5, 32, 32), 5), abs=0.3)
    assert found.scales.numpy() == pytest.approx(np.full(5, 2), abs=0.1)


def test_where_normal_images_have_hot_edges_the_joined_map_has_none():
    maps = np.random.default_rng(0).normal(0, 1, (40, len(SIGNALS), 64, 64))
    maps[..., :16] += 5
    centres, _ = fusion._normal_values(maps.astype(np.float32))
    left = maps - centres
    assert left[..., :4].mean() - left[..., 32:].mean() < 1.2


@pytest.mark.parametrize("number", [1, 2])
def test_few_normal_images_are_measured_by_what_all_pixels_share(number):
    maps = np.random.default_rng(0).normal(0, 1, (number, len(SIGNALS), 64, 64)).astype(np.float32)
    maps[..., :32] += 5
    centres, _ = fusion._normal_values(maps)
    assert centres.max() - centres.min() < 5 * number / (number + fusion.PRIOR_IMAGES) + 0.5


@pytest.mark.parametrize(
    ("quality", "weights"),
    [
        ((9, 9, 9, 9, 9), (1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3)),
        ((0, 2, 0, 0, 0), (0, 1, 0, 0, 0)),
    ],
)
def test_a_signal_that_sees_no_probe_gets_no_weight_in_the_score(monkeypatch, quality, weights):
    assert fitted(monkeypatch, quality).score_weights.tolist() == pytest.approx(weights)


def test_the_map_joins_what_finds_pixels_best(monkeypatch):
    assert fitted(monkeypatch, (0, 4, 0, 4, 0)).weights.tolist() == pytest.approx([0, 0.5, 0, 0.5, 0])


def test_the_map_leaves_out_deep_features_which_say_roughly_where(monkeypatch):
    found = fitted(monkeypatch, (0, 2, 0, 0, 9))
    assert found.weights.tolist() == pytest.approx([0, 1, 0, 0, 0]) and found.score_weights[4] > 0


def test_without_probes_all_signals_are_joined(monkeypatch, caplog):
    given = examples()
    monkeypatch.setattr(fusion, "signal_maps", lambda _model, batch, _world: np.zeros((len(batch), 5, 32, 32), "f4"))
    model = Model()
    none = Examples(given.normal, [], np.zeros((0, 32, 32), bool))
    with caplog.at_level("WARNING", "realnet"):
        fusion.fit_fusion(model, none, config=CONFIG, world=ALONE, description="")
    assert model.fusion.weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2, 0])
    assert model.fusion.score_weights.tolist() == pytest.approx([1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3])
    assert "no probe fell" in caplog.text


@pytest.mark.parametrize(("size", "best"), [(1, 1), (16, 16)])
def test_the_pool_fits_the_size_of_the_anomalies(monkeypatch, size, best):
    generator = np.random.default_rng(0)

    def anomaly_maps(_model, batch, _precision):
        bright = (batch.mean(dim=1) > 0).float()
        maps = torch.zeros(len(batch), 32, 32)
        if size == 1:  # a faint point among broad stains that normal images have too
            maps[:, :16] = torch.from_numpy(generator.uniform(0, 0.3, (len(batch), 1, 1)).astype("f4"))
            maps[:, 20, 20] = 0.4 * bright.amax(dim=(1, 2))
        else:  # a faint area below speckle
            maps = torch.from_numpy(generator.uniform(0, 1, maps.shape).astype("f4") ** 8)
            maps[:, 8:24, 8:24] += 0.1 * bright.amax(dim=(1, 2))[:, None, None]
        return AnomalyMaps(maps, None)

    monkeypatch.setattr(fusion, "anomaly_maps", anomaly_maps)
    assert fusion.choose_pool(Model(), examples(), config=CONFIG, world=ALONE, description="") == best


TILED = RealNetConfig.model_validate({"image_size": 80, "tiles": {"size": 32}})  # 9 tiles, of which 4 pixels overlap


@pytest.mark.parametrize("place", ["edge", "middle"])
def test_the_edges_of_tiles_which_the_blend_leaves_out_do_not_choose(place):
    """The first signal alone sees probes, but is hot somewhere in every fourth normal tile."""
    rng = np.random.default_rng(0)
    normal, odd = (rng.normal(0, 0.1, (number, len(SIGNALS), 32, 32)) for number in (64, 16))
    row = 1 if place == "edge" else 15
    normal[::4, 0, row, 5:25] += 9
    masks = np.zeros((16, 32, 32), bool)
    masks[:, 10:14, 10:14] = True
    odd[:, 0, 10:14, 10:14] += 5
    odd[:, 1, 10:14, 10:14] += 0.4
    maps = fusion.Measured(normal.astype(np.float32), odd.astype(np.float32))
    for_scores = fusion._choose_weights(maps, masks, np.zeros((5, 32, 32)), np.ones(5), TILED)[1]
    assert (for_scores[0] > 0) == (place == "edge")


def test_tiles_are_told_apart_as_the_photographs_that_they_make():
    rng = np.random.default_rng(0)
    normal, odd = rng.normal(size=4000), rng.normal(2.5, 1, size=40)
    found = fusion.image_auroc(fusion.Measured(normal, odd), TILED)
    others = rng.normal(size=(2, 4000, 9)).max(axis=2)
    with_probes = np.maximum(others[0][:, None], odd)
    assert found == pytest.approx((with_probes[..., None][:2000] > others[1][:200]).mean(), abs=0.02)
    assert fusion.image_auroc(fusion.Measured(normal, odd), CONFIG) > found + 0.05  # of single images

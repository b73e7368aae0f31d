import numpy as np
import pytest

from realnet.anomalies import perlin
from realnet.anomalies.perlin import draw_periods, perlin_mask, perlin_noise
from tests import golden
from tests.closed_form import wave


@pytest.mark.parametrize("path", golden.paths("data", "perlin"))
def test_golden_noise(path):
    case = golden.load(path)
    assert case.run["cases"]
    for number, run in enumerate(case.run["cases"]):
        noise = perlin_noise(tuple(run["shape"]), tuple(run["res"]), golden.evaluate(run["angles"]))
        golden.assert_close(noise, case.outputs[f"noise_{number}"])


def test_own_figures():
    noise = perlin_noise((24, 40), (3, 5), np.pi * (1 + wave("angles", 4, 6).double().numpy()))
    assert noise.dtype == np.float32
    golden.assert_close(noise[[1, 5, 13, 22], [3, 37, 20, 10]], [-0.643286, -0.198385, -0.630384, -0.298943])


def slow_noise(shape, periods, angles):
    """The definition pixel by pixel: offsets from the four corners times their gradients, faded."""
    noise = np.zeros(shape)
    for row, column in np.ndindex(shape):
        y, x = row * periods[0] / shape[0], column * periods[1] / shape[1]
        for corner_y in (int(y), int(y) + 1):
            for corner_x in (int(x), int(x) + 1):
                dy, dx, angle = y - corner_y, x - corner_x, angles[corner_y, corner_x]
                fades = [1 - (6 * abs(d) ** 5 - 15 * abs(d) ** 4 + 10 * abs(d) ** 3) for d in (dy, dx)]
                noise[row, column] += fades[0] * fades[1] * (np.cos(angle) * dy + np.sin(angle) * dx)
    return np.sqrt(2) * noise


@pytest.mark.parametrize(("shape", "periods"), [((12, 17), (1, 4)), ((10, 7), (4, 2)), ((5, 6), (8, 16))])
def test_any_shape_follows_the_definition(shape, periods):
    angles = np.random.default_rng(1).uniform(0, 2 * np.pi, (periods[0] + 1, periods[1] + 1))
    np.testing.assert_allclose(perlin_noise(shape, periods, angles), slow_noise(shape, periods, angles), atol=1e-5)


def test_periods_are_independent_powers_of_two():
    rng = np.random.default_rng(0)
    drawn = [draw_periods(rng) for _ in range(400)]
    assert {height for height, _ in drawn} == {width for _, width in drawn} == {1, 2, 4, 8, 16, 32}
    assert len(set(drawn)) > 30
    assert {period for pair in (draw_periods(rng, scale=4, min_scale=2) for _ in range(50)) for period in pair} == {
        4,
        8,
    }


def test_masks_are_seeded_and_as_rare_as_their_threshold():
    def masks(threshold):
        return [perlin_mask((96, 64), np.random.default_rng(s), periods=(8, 8), threshold=threshold) for s in range(20)]

    assert np.array_equal(masks(0.5)[3], masks(0.5)[3])
    assert masks(0.5)[0].shape == (96, 64)
    assert 0.02 < np.mean(masks(0.5)) < np.mean(masks(0.2)) < 0.5


def test_masks_are_turned_about_the_centre_and_empty_outside(monkeypatch):
    monkeypatch.setattr(perlin, "perlin_noise", lambda shape, periods, angles: np.ones(shape, np.float32))
    masks = np.stack([perlin_mask((64, 64), np.random.default_rng(s), periods=(1, 1)) for s in range(40)])
    assert (masks[:, 30:34, 30:34]).all()
    half_turned = masks[:, ::-1, ::-1]
    assert (masks != half_turned).mean() < 0.01
    shares = masks.mean(axis=(1, 2))
    assert shares.max() > 0.98  # a turn of about 0° or 90°
    assert shares.min() == pytest.approx(2 * np.sqrt(2) - 2, abs=0.02)  # of about 45°: a regular octagon is left

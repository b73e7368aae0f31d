import cv2
import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageOps

from realnet.anomalies import textures

IMAGE = (cv2.GaussianBlur(np.random.default_rng(0).normal(size=(40, 56, 3)), (0, 0), 2) * 350 + 120).clip(0, 255)
IMAGE = IMAGE.astype(np.uint8)


class Drawn:
    """A generator whose draws are given."""

    def __init__(self, **draws):
        self.draws = draws

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.draws[name]


@pytest.mark.parametrize("operation", textures.OPERATIONS, ids=lambda operation: operation.__name__)
def test_each_operation_is_seeded_changes_the_image_and_leaves_its_input(operation):
    before = IMAGE.copy()
    results = [operation(IMAGE, np.random.default_rng(seed)) for seed in range(12)]
    assert np.array_equal(IMAGE, before)
    assert all(result.shape == IMAGE.shape and result.dtype == np.uint8 for result in results)
    assert any(not np.array_equal(result, IMAGE) for result in results)
    assert np.array_equal(results[5], operation(IMAGE, np.random.default_rng(5)))


def test_three_of_ten_are_drawn_without_replacement(monkeypatch):
    applied = []
    spies = tuple(lambda image, rng, n=n: applied.append(n) or image for n in range(10))
    assert len(textures.OPERATIONS) == 10
    monkeypatch.setattr(textures, "OPERATIONS", spies)
    rng = np.random.default_rng(0)
    for _ in range(100):
        applied.clear()
        textures.augment_texture(IMAGE, rng)
        assert len(applied) == len(set(applied)) == 3


def test_gamma_is_a_power_per_channel():
    powers = np.array([0.5, 1.0, 2.0])
    expected = 255 * (IMAGE / 255) ** powers
    assert np.abs(textures.gamma(IMAGE, Drawn(uniform=powers)) - expected).max() <= 0.51


def test_solarise_inverts_from_its_threshold_on():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    result = textures.solarise(ramp, Drawn(random=0.1, integers=100))[0, :, 0]
    assert result[99] == 99
    assert result[100] == 155
    assert textures.solarise(ramp, Drawn(random=0.9, integers=100)) is ramp


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_posterise_keeps_upper_bits(bits):
    expected = np.asarray(ImageOps.posterize(PILImage.fromarray(IMAGE), 8 - bits))
    assert np.array_equal(textures.posterise(IMAGE, Drawn(integers=bits)), expected)


def test_autocontrast_is_that_of_pil():
    without_cutoff = textures.autocontrast(IMAGE, Drawn(uniform=0.0))
    expected = np.asarray(ImageOps.autocontrast(PILImage.fromarray(IMAGE)))
    assert np.abs(without_cutoff.astype(int) - expected).max() <= 1
    cut = textures.autocontrast(IMAGE, Drawn(uniform=0.1))
    for channel in range(3):
        assert 0.05 < (cut[..., channel] == 0).mean() < 0.12
        assert 0.05 < (cut[..., channel] == 255).mean() < 0.12


def test_autocontrast_leaves_a_flat_image():
    flat = np.full((8, 8, 3), 90, np.uint8)
    assert np.array_equal(textures.autocontrast(flat, Drawn(uniform=0.2)), flat)


def test_hue_turns_round_its_circle():
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    turned = textures.hue_saturation(red, Drawn(integers=(-43, 0)))  # a sixth of 256: magenta
    assert np.abs(turned[0, 0].astype(int) - (255, 0, 255)).max() <= 4


@pytest.mark.parametrize("shape", [(40, 56), (41, 53), (3, 5)])
def test_shuffling_keeps_the_size(shape):
    image = cv2.resize(IMAGE, shape[::-1])
    assert textures.shuffle_grid(image, np.random.default_rng(0)).shape == image.shape


def test_shuffling_moves_whole_cells():
    cells = np.arange(32, dtype=np.uint8).reshape(4, 8) * 7
    image = np.repeat(np.kron(cells, np.ones((6, 5), np.uint8))[..., None], 3, axis=2)
    shuffled = textures.shuffle_grid(image, np.random.default_rng(0))
    found = shuffled[::6, ::5, 0]
    assert np.array_equal(shuffled[..., 0], np.kron(found, np.ones((6, 5), np.uint8)))
    assert sorted(found.ravel()) == sorted(cells.ravel())
    assert not np.array_equal(found, cells)

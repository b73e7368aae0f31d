from itertools import pairwise

import numpy as np
import pytest

from realnet.config import RealNetConfig
from realnet.data.tiles import ON_GRID, Mosaic, Tiling, tiling_of

SIZES = [
    ((64, 64), (32, 32), 0.25),
    ((64, 64), (64, 64), 0.25),  # a single tile
    ((100, 37), (32, 32), 0.25),  # no multiple of anything
    ((20, 90), (32, 32), 0.5),  # lower than a tile
    ((5, 7), (32, 16), 0.0),  # smaller than a tile on both sides, by more than a mirror image
    ((1, 40), (8, 8), 0.25),
    ((96, 64), (32, 32), 0.0),  # tiles side by side
    ((70, 70), (32, 16), 0.9),  # a pixel is in many tiles
]
every_size = pytest.mark.parametrize(("image_size", "size", "overlap"), SIZES)


def numbered(shape):
    return np.arange(np.prod(shape)).reshape(shape).astype(np.float32)


def blended(tiling, maps):
    mosaic = Mosaic(tiling)
    for corner, values in zip(tiling.corners, maps, strict=True):
        mosaic.add(corner, values)
    return mosaic.whole()


@every_size
def test_tiles_cover_every_pixel_from_edge_to_edge(image_size, size, overlap):
    tiling = Tiling(image_size, size, overlap)
    for axis in (0, 1):
        starts, length, side = tiling.starts(axis), tiling.padded[axis], size[axis]
        assert starts[0] == 0 and starts[-1] == length - side and starts == sorted(set(starts))
        assert all(after - before <= max(1, side * (1 - overlap)) for before, after in pairwise(starts))
    assert len(tiling) == len(tiling.starts(0)) * len(tiling.starts(1)) == len(set(tiling.corners))


@every_size
def test_weights_add_up_to_1_everywhere(image_size, size, overlap):
    tiling = Tiling(image_size, size, overlap)
    np.testing.assert_allclose(blended(tiling, [np.ones(size)] * len(tiling)), 1, atol=1e-6)
    assert all(tiling.shares(corner).min() > 0 for corner in tiling.corners)


@every_size
def test_what_is_cut_and_blended_is_the_photograph(image_size, size, overlap):
    tiling, photograph = Tiling(image_size, size, overlap), numbered(image_size)
    maps = [tiling.cut(photograph, corner) for corner in tiling.corners]
    assert all(one.shape == size for one in maps)
    np.testing.assert_allclose(blended(tiling, maps), photograph, rtol=1e-5, atol=1e-5)


def test_a_photograph_that_is_smaller_than_a_tile_is_mirrored_beyond_its_edge():
    tile = Tiling((3, 6), (5, 6), 0.25).cut(numbered((3, 6)), (0, 0))
    assert tile[:, 0].tolist() == [0, 6, 12, 6, 0]
    assert Tiling((3, 6), (5, 8), 0.25).cut(np.ones((3, 6, 3), np.uint8), (0, 0)).shape == (5, 8, 3)
    assert Tiling((3, 6), (5, 8), 0.25).cut(np.ones((3, 6), bool), (0, 0)).all()


def test_where_neighbours_differ_they_pass_into_each_other_without_a_seam():
    tiling = Tiling((32, 120), (32, 32), 0.5)
    generator = np.random.default_rng(0)
    levels = generator.uniform(0, 1, len(tiling))
    whole = blended(tiling, [np.full((32, 32), level) for level in levels])
    overlap = 32 - max(np.diff(tiling.starts(1)))
    steepest = np.pi / 2 / overlap * np.abs(np.diff(levels)).max()
    assert np.abs(np.diff(whole, axis=1)).max() < 1.1 * steepest
    assert np.abs(np.diff(whole, axis=0)).max() < 1e-6


def test_a_tile_has_no_say_at_its_own_edge_inside_the_photograph():
    tiling = Tiling((96, 96), (48, 48), 0.5)
    middle = tiling.shares((24, 24))
    assert middle[0].max() < 0.01 and middle[:, -1].max() < 0.01 and middle[24, 24] > 0.9
    assert tiling.shares((0, 0))[0, 0] == 1  # at the photograph's edge it is alone


def test_drawn_tiles_lie_inside_the_photograph_and_often_on_the_grid():
    tiling, generator = Tiling((90, 60), (32, 32), 0.25), np.random.default_rng(0)
    drawn = [tiling.draw(generator) for _ in range(400)]
    assert {row for row, _ in drawn} <= set(range(59)) and {column for _, column in drawn} <= set(range(29))
    assert len({row for row, _ in drawn}) > 50
    share = np.mean([corner in tiling.corners for corner in drawn])
    assert ON_GRID - 0.08 < share < ON_GRID + 0.1
    only = Tiling((20, 32), (32, 32), 0.25)
    assert {only.draw(generator) for _ in range(20)} == {(0, 0)}


def test_what_is_pasted_lies_where_it_was_cut():
    tiling, photograph = Tiling((40, 20), (16, 32), 0.25), numbered((40, 20))
    changed = np.zeros_like(photograph)
    for corner in tiling.corners:
        tiling.paste(tiling.cut(photograph, corner), corner, changed)
    np.testing.assert_array_equal(changed, photograph)


def test_a_config_without_tiles_has_none():
    assert tiling_of(RealNetConfig()) is None
    config = RealNetConfig.model_validate({"image_size": [512, 1024], "tiles": {"size": 128, "overlap": 0.5}})
    assert tiling_of(config) == Tiling((512, 1024), (128, 128), 0.5)

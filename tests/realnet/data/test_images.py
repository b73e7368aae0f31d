import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from alone import denormalise
from PIL import Image as PILImage

from realnet.config import MaskRule
from realnet.data import images
from realnet.data.decoding import is_truncated
from realnet.errors import UserError

GRADIENT = np.linspace(0, 255, 24 * 32).astype(np.uint8).reshape(24, 32)
COLOURS = np.stack([GRADIENT, 255 - GRADIENT, GRADIENT // 2], axis=-1)


def test_colours_survive_a_png_in_rgb_order(tmp_path):
    images.write_image(tmp_path / "deep" / "x.png", COLOURS)
    assert np.array_equal(images.read_image(tmp_path / "deep" / "x.png"), COLOURS)
    assert np.array_equal(np.asarray(PILImage.open(tmp_path / "deep" / "x.png")), COLOURS)


def test_jpeg_stays_close(tmp_path):
    images.write_image(tmp_path / "x.jpg", COLOURS)
    assert np.abs(images.read_image(tmp_path / "x.jpg").astype(int) - COLOURS).mean() < 3


def test_grey_becomes_three_equal_channels(tmp_path):
    PILImage.fromarray(GRADIENT).save(tmp_path / "x.png")
    assert np.array_equal(images.read_image(tmp_path / "x.png"), np.repeat(GRADIENT[..., None], 3, axis=2))


def test_16_bit_keeps_the_upper_byte(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), GRADIENT.astype(np.uint16) * 256 + 77)
    assert np.array_equal(images.read_image(tmp_path / "x.png")[..., 1], GRADIENT)


def test_transparency_is_dropped(tmp_path):
    PILImage.fromarray(np.dstack([COLOURS, GRADIENT])).save(tmp_path / "x.png")
    assert np.array_equal(images.read_image(tmp_path / "x.png"), COLOURS)


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, orientation, quarter_turns):
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(np.array([[250, 20, 20], [20, 20, 130]], np.uint8), np.ones((16, 16), np.uint8))
    PILImage.fromarray(np.repeat(blocks[..., None], 3, axis=2)).save(tmp_path / "x.jpg", exif=exif, quality=100)
    read = images.read_image(tmp_path / "x.jpg")[..., 0].astype(int)
    assert read.shape == np.rot90(blocks, quarter_turns).shape
    assert np.abs(read - np.rot90(blocks, quarter_turns)).max() < 10


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6, 0.95])
def test_truncated_files_are_named(tmp_path, suffix, kept):
    noisy = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = tmp_path / f"broken{suffix}"
    images.write_image(path, noisy)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match=f"broken{suffix}.*truncated"):
        images.read_image(path)


def test_truncation_is_seen_without_the_decoder():
    # decoders of other OpenCV versions fill up what is missing, with no more than a warning
    jpeg = bytes(cv2.imencode(".jpg", COLOURS)[1])
    png = bytes(cv2.imencode(".png", COLOURS)[1])
    assert not is_truncated(jpeg)
    assert not is_truncated(png)
    assert is_truncated(jpeg[:-2])
    assert is_truncated(png[:-12])
    assert not is_truncated(jpeg + b"a camera's trailer")


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_truncated():
    # the thumbnail in the header has an end mark of its own
    thumbnail, jpeg = (bytes(cv2.imencode(".jpg", image)[1]) for image in (COLOURS[::4, ::4].copy(), COLOURS))
    header = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = jpeg[:2] + header + jpeg[2:]
    assert not is_truncated(whole)
    assert is_truncated(whole[:-30])


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "note.png").write_text("not an image")
    with pytest.raises(UserError, match=r"note\.png"):
        images.read_image(tmp_path / "note.png")
    with pytest.raises(UserError, match=r"absent\.png: No such file"):
        images.read_image(tmp_path / "absent.png")


def test_what_is_too_large_for_the_decoder_is_refused_by_name(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    for read in (images.read_image, images.read_mask):
        with pytest.raises(UserError, match=r"x\.png .*2\^30 pixels"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_value_but_zero_is_defect(tmp_path, dtype):
    values = np.zeros((10, 12), dtype)
    values[2:4, 3:9], values[6, 6] = 1, 200
    cv2.imwrite(str(tmp_path / "m.png"), values)
    assert np.array_equal(images.read_mask(tmp_path / "m.png"), values > 0)


def test_a_mask_in_colour_counts_each_channel_and_no_transparency(tmp_path):
    values = np.zeros((10, 12, 4), np.uint8)
    values[..., 3] = 255
    values[1, 1, 0] = values[2, 2, 1] = values[3, 3, 2] = 9
    PILImage.fromarray(values).save(tmp_path / "m.png")
    assert np.argwhere(images.read_mask(tmp_path / "m.png")).tolist() == [[1, 1], [2, 2], [3, 3]]


def test_a_mask_is_drawn_if_a_part_of_it_is_a_defect_by_the_rule(tmp_path):
    def is_drawn(values, name="m.png"):
        PILImage.fromarray(values).save(tmp_path / name)
        return images.is_drawn(tmp_path / name)

    black = np.zeros((16, 16, 3), np.uint8)
    assert is_drawn(black) is False and is_drawn(black, "m.jpg") is False
    assert is_drawn(black + 255) is None and is_drawn(black + 255, "m.jpg") is None
    noisy = black + np.random.default_rng(0).integers(0, 5, black.shape).astype(np.uint8)
    assert is_drawn(noisy) is True and is_drawn(noisy, "m.jpg") is False
    marked = np.dstack([black, black[..., :1] + 255])
    assert is_drawn(marked) is False
    marked[3, 3, 0] = 1  # the number of a kind
    assert is_drawn(marked) is True
    marked[3, 3] = 0  # drawn in transparency
    assert is_drawn(marked) is None and images.is_drawn(tmp_path / "m.png", MaskRule(channel="alpha")) is True
    deep = np.zeros((16, 16, 4), np.uint16)
    deep[..., 3], deep[3, 3, 0] = 65535, 2
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert images.is_drawn(tmp_path / "deep.png") is True


def test_a_mask_is_written_as_0_and_255(tmp_path):
    mask = GRADIENT > 100
    images.write_image(tmp_path / "m.png", mask)
    assert set(np.unique(np.asarray(PILImage.open(tmp_path / "m.png")))) == {0, 255}
    assert np.array_equal(images.read_mask(tmp_path / "m.png"), mask)


def test_resizing_averages_what_falls_together():
    stripes = np.zeros((64, 48, 3), np.uint8)
    stripes[:, ::2] = 200
    small = images.resize_image(stripes, (16, 12))
    assert small.shape == (16, 12, 3)
    assert np.abs(small[2:-2, 2:-2].astype(int) - 100).max() <= 2
    expected = PILImage.fromarray(stripes).resize((12, 16), PILImage.Resampling.BILINEAR)
    assert np.array_equal(small, np.asarray(expected))
    assert images.resize_image(stripes, (64, 48)) is stripes


def test_masks_take_the_nearest_pixel():
    mask = np.zeros((8, 8), bool)
    mask[5, 5] = True
    assert np.argwhere(images.resize_mask(mask, (4, 4))).tolist() == [[2, 2]]
    assert images.resize_mask(mask, (16, 24)).sum() == 6


def test_value_ranges_of_the_networks():
    image = np.zeros((4, 6, 3), np.uint8)
    image[0, 0], image[1, 2] = 255, (124, 116, 104)
    normalised, signed = images.normalise(image), images.to_signed(image)
    assert normalised.dtype == signed.dtype == torch.float32
    assert normalised.shape == signed.shape == (3, 4, 6)
    torch.testing.assert_close(normalised[:, 0, 0], torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-4, rtol=0)
    assert normalised[:, 1, 2].abs().max() < 0.02
    assert (signed[:, 0, 0] == 1).all()
    assert signed.min() == -1


def test_denormalise_undoes_normalise():
    restored = denormalise(images.normalise(COLOURS)[None])[0]
    assert np.array_equal(restored.permute(1, 2, 0).numpy(), COLOURS)

import cv2
import numpy as np
import pytest
from PIL import Image as PILImage

from realnet.data import headers
from realnet.data.headers import image_size
from realnet.data.images import read_image, write_image
from realnet.errors import UserError

SHAPE = (61, 45)
NOISE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("kept", [0.03, 0.5, 0.99])
def test_size_of_a_whole_file_and_refusal_of_a_truncated_one(tmp_path, suffix, kept):
    path = tmp_path / f"x.{suffix}"
    write_image(path, NOISE)
    assert image_size(path) == SHAPE == read_image(path).shape[:2]
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match=rf"x\.{suffix}"):
        image_size(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_common_formats_are_not_decoded(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"x.{suffix}"
    write_image(path, NOISE)
    grey = tmp_path / f"grey.{suffix}"
    cv2.imwrite(str(grey), NOISE[..., 0])
    monkeypatch.setattr(headers, "read_image", None)
    assert image_size(path) == image_size(grey) == SHAPE


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_photographs_have_the_size_they_are_read_at(tmp_path, suffix, orientation):
    exif = PILImage.Exif()
    exif[headers.ORIENTATION] = orientation
    path = tmp_path / f"x.{suffix}"
    PILImage.fromarray(NOISE).save(path, exif=exif)
    assert image_size(path) == read_image(path).shape[:2]


def test_a_thumbnail_is_not_the_end_of_a_photograph(tmp_path):
    whole, thumbnail = tmp_path / "x.jpg", tmp_path / "t.jpg"
    write_image(thumbnail, NOISE[:8, :8])
    PILImage.fromarray(NOISE).save(whole, comment=thumbnail.read_bytes())
    assert image_size(whole) == SHAPE
    whole.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(UserError):
        image_size(whole)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    for name in ("x.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            image_size(tmp_path / name)

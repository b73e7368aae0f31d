import importlib
import io
import logging
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image as PILImage

from realnet.data import decoding, depth
from realnet.data.headers import image_size
from realnet.data.images import read_image, read_mask
from realnet.errors import UserError

COLOURS = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)


def coded(kind, **options):
    file = io.BytesIO()
    PILImage.fromarray(COLOURS).save(file, kind, **options)
    return file.getvalue()


FORMS = {"JPEG": {}, "progressive": {"progressive": True}, "restarts": {"restart_marker_blocks": 2}, "PNG": {}}
TRAILERS = {
    "a photograph": coded("JPEG"),
    "half a photograph": coded("JPEG")[:-900],
    "a video": b"\0\0\0\x18ftypmp42" + bytes(100) + b"\xff\xda\0\x0c\x03" * 50,
    "zeros": bytes(100_000),
}


@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
@pytest.mark.parametrize("form", FORMS)
def test_bytes_after_the_end_do_not_count_and_missing_ones_do(tmp_path, form, trailer):
    data = coded(form if form == "PNG" else "JPEG", **FORMS[form])
    path = tmp_path / "x"
    path.write_bytes(data + trailer)
    plain = tmp_path / "plain"
    plain.write_bytes(data)
    assert np.array_equal(read_image(path), read_image(plain))
    assert image_size(path) == (40, 56)
    for cut in (1, 2, 12, 200, len(data) // 2):
        assert decoding.is_truncated(data[:-cut])


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64, np.int16])
def test_values_without_a_range_are_named_as_such(tmp_path, dtype):
    path = tmp_path / "x.tif"
    cv2.imwrite(str(path), COLOURS[..., 0].astype(dtype))
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=rf"x\.tif holds {dtype.__name__} values, of which nobody knows the range"):
            read(path)


def test_a_heic_photograph_is_named_as_such(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with pytest.raises(UserError, match=r"x\.jpg is a HEIC photograph.*convert it"):
        read_image(tmp_path / "x.jpg")


def test_of_several_pages_the_first_is_used_with_one_warning_a_folder(tmp_path, caplog):
    pages = [PILImage.fromarray(COLOURS), PILImage.fromarray(255 - COLOURS)]
    for name in ("a.tif", "b.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tif")
    with caplog.at_level(logging.WARNING, "realnet"):
        for name in ("one.tif", "a.tif", "b.tif"):
            assert np.array_equal(read_image(tmp_path / name), COLOURS)
    (message,) = caplog.messages
    assert "a.tif has several pages" in message
    assert not decoding.has_pages(b"II*\0\xff\xff\xff\xff")


def test_a_huge_image_gives_no_warning_of_pil(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1501 * 12_000), 1))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        importlib.reload(decoding)  # as on import: its filter comes before all others
        assert image_size(tmp_path / "x.png") == (12_000, 12_000)
    assert not seen


def deep(path, values):
    cv2.imwrite(str(path), values.astype(np.uint16))
    return path


def test_ten_and_twelve_bits_are_found_over_all_files(tmp_path):
    ramp = np.arange(64 * 64).reshape(64, 64)
    dark, bright = deep(tmp_path / "0.png", ramp % 600), deep(tmp_path / "1.tif", ramp % 3000)
    grey = tmp_path / "2.png"
    cv2.imwrite(str(grey), COLOURS)
    assert depth.find_bits([dark, grey]) == (10, 1)
    assert depth.find_bits([dark, bright, grey, tmp_path / "absent.png"]) == (12, 2)
    assert depth.find_bits([grey]) == depth.find_bits([]) == (16, 0)
    assert depth.find_bits([deep(tmp_path / "3.png", ramp * 16)]) == (16, 1)
    read = read_image(bright, 12)
    assert len(np.unique(read)) > 180 and np.array_equal(read[..., 0], (ramp % 3000) >> 4)
    assert len(np.unique(read_image(bright))) < 13
    assert read_image(deep(tmp_path / "4.png", ramp * 16), 12).max() == 255  # brighter than any before: not wrapped


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_tiff_of_packed_bits_is_read(tmp_path, bits):
    ramp = np.arange(64).reshape(8, 8) << (bits - 6)
    packed = int("".join(f"{value:0{bits}b}" for value in ramp.ravel()), 2).to_bytes(8 * bits)
    entries = {256: 8, 257: 8, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(packed)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    path = tmp_path / "x.tif"
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", 9) + table + bytes(4)
    )
    assert np.array_equal(read_image(path, depth.find_bits([path])[0])[..., 0], ramp >> (bits - 8))


def test_a_png_may_say_its_bits(tmp_path):
    data = deep(tmp_path / "x.png", np.full((8, 8), 5)).read_bytes()
    said = struct.pack(">I", 1) + b"sBIT" + b"\x0e" + struct.pack(">I", zlib.crc32(b"sBIT\x0e"))
    (tmp_path / "x.png").write_bytes(data[:33] + said + data[33:])
    assert depth.bits_of(tmp_path / "x.png") == 14

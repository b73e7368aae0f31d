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

from realnet.config import MaskRule
from realnet.data import decoding, depth, tiff
from realnet.data.headers import image_size
from realnet.data.images import read_image, read_mask, read_pixels
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
    assert not tiff.has_pages(b"II*\0\xff\xff\xff\xff")


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


def tiff_of(strip, *, side=8, is_big=False, **tags):
    """Return a TIFF file of one strip; a tag of the name ``t258`` is that of this number."""
    start = 16 if is_big else 8
    entries = {256: side, 257: side, 259: 1, 273: start, 278: side, 279: len(strip)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    entry, head, last = ("<HHQQ", "<2sHHHQ", 8) if is_big else ("<HHII", "<2sHI", 4)
    table = b"".join(struct.pack(entry, tag, 4, 1, entries[tag]) for tag in sorted(entries))
    at = start + len(strip)
    first = struct.pack(head, b"II", 43, 8, 0, at) if is_big else struct.pack(head, b"II", 42, at)
    return first + strip + struct.pack("<Q" if is_big else "<H", len(entries)) + table + bytes(last)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_tiff_of_packed_bits_is_read(tmp_path, bits):
    ramp = np.arange(64).reshape(8, 8) << (bits - 6)
    packed = int("".join(f"{value:0{bits}b}" for value in ramp.ravel()), 2).to_bytes(8 * bits)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_of(packed, t258=bits, t262=1, t277=1))
    assert np.array_equal(read_image(path, depth.find_bits([path])[0])[..., 0], ramp >> (bits - 8))


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"t258": 8, "t262": 8, "t277": 3}, "Lab colours, which OpenCV misreads; convert it"),
        ({"t258": 16, "t262": 8, "t277": 3}, "Lab colours, which"),
        ({"t258": 8, "t262": 9, "t277": 3}, "Lab colours, which"),
        ({"t258": 16, "t262": 0, "t277": 1}, "16-bit values of which 0 is white, which"),
        ({"t258": 16, "t262": 5, "t277": 4}, "CMYK colours that OpenCV cannot read"),
    ],
)
def test_colours_that_would_be_wrong_are_named(tmp_path, tags, says, is_big):
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_of(bytes(range(256)) * 2, is_big=is_big, **tags))
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=rf"x\.tif is a TIFF with {says}"):
            read(path)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr"])
def test_other_colours_are_converted(tmp_path, mode):
    smooth = np.kron(COLOURS[:4, :4], np.ones((8, 8, 1), np.uint8))
    for name, options in {"x.tif": {}, "x.jpg": {"quality": 100, "subsampling": 0}}.items():
        PILImage.fromarray(smooth).convert(mode).save(tmp_path / name, **options)
        assert np.abs(read_image(tmp_path / name).astype(int) - smooth).mean() < 2
    white = tmp_path / "white.tif"
    white.write_bytes(tiff_of((255 - COLOURS[:8, :8, 0]).tobytes(), t258=8, t262=0, t277=1))
    assert np.array_equal(read_image(white)[..., 0], COLOURS[:8, :8, 0])


def test_transparency_does_not_darken_the_colours_of_a_tiff(tmp_path):
    shown = np.dstack([COLOURS, COLOURS[..., 0] // 2])
    for name in ("x.png", "x.tif"):
        PILImage.fromarray(shown).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), COLOURS)
        assert np.array_equal(read_pixels(tmp_path / name), shown)
    data = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_rotated_as_its_image_however_it_is_stored(tmp_path, orientation):
    exif = PILImage.Exif()
    exif[decoding.ORIENTATION] = orientation
    mask = np.zeros((16, 16), np.uint8)
    mask[1:7, 2:5], mask[12, 13] = 255, 255
    grey = PILImage.fromarray(mask)
    palette = grey.point(lambda value: value // 255)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    image, *masks = (
        PILImage.fromarray(np.dstack([mask] * 3)),
        grey,
        palette,
        PILImage.fromarray(mask.astype(np.uint16)),
        PILImage.merge("LA", [grey.point(lambda _: 9), grey]),
        PILImage.merge("RGBA", [grey.point(lambda _: 9)] * 3 + [grey]),
    )
    for suffix in ("png", "tif"):
        options = {"tiffinfo": {decoding.ORIENTATION: orientation}} if suffix == "tif" else {"exif": exif}
        image.save(tmp_path / f"image.{suffix}", **options)
        right = read_image(tmp_path / f"image.{suffix}")[..., 0] > 127
        for number, picture in enumerate(masks):
            if suffix == "tif" and picture.mode == "LA":
                continue  # OpenCV drops the transparency
            path = tmp_path / f"{number}.{suffix}"
            picture.save(path, **options)
            rule = MaskRule(channel="alpha", above=127) if "A" in picture.mode else MaskRule()
            assert np.array_equal(read_mask(path, rule), right), (picture.mode, suffix)


def test_a_png_may_say_its_bits(tmp_path):
    data = deep(tmp_path / "x.png", np.full((8, 8), 5)).read_bytes()
    for written, bits in ((b"\x0e", 14), (b"\xc8", 3)):  # there are no 200 bits
        said = struct.pack(">I", 1) + b"sBIT" + written + struct.pack(">I", zlib.crc32(b"sBIT" + written))
        (tmp_path / "x.png").write_bytes(data[:33] + said + data[33:])
        assert depth.find_bits([tmp_path / "x.png"]) == (max(8, bits), 1)


def test_a_tiff_whose_first_page_is_nowhere_is_named(tmp_path):
    whole = tiff_of(bytes(192), is_big=True, t258=8, t262=2, t277=3)
    for place in (2**63, 2**64 - 1, len(whole), 0):
        (tmp_path / "x.tif").write_bytes(whole[:8] + struct.pack("<Q", place) + whole[16:])
        for read in (read_image, read_mask, read_pixels, image_size):
            with pytest.raises(UserError, match=r"x\.tif"):
                read(tmp_path / "x.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "JPEG2000"])
def test_a_damaged_file_is_read_or_named(tmp_path, kind):
    whole, rng, path = coded(kind), np.random.default_rng(0), tmp_path / "x"
    for number in range(40):
        data = bytearray(whole[: rng.integers(1, len(whole))] if number % 4 == 0 else whole)
        data[rng.integers(min(len(data), 200 if number % 2 else len(data)))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        for read in (read_image, read_mask, read_pixels, image_size):
            try:
                assert len(read(path))
            except UserError as error:
                assert "x" in str(error)
        assert depth.find_bits([path])[0] in depth.DEPTHS

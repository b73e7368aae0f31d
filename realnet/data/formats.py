"""Tell image files from others: by their usual endings, and any other file by its first bytes."""

from pathlib import Path

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NUM_BYTES = 32
_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"qoif"),
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"hevc", b"heim", b"msf1")


def is_image(path: Path) -> bool:
    """Tell whether a file is an image: its name has a usual ending, or it begins as image files do."""
    return path.suffix.lower() in IMAGE_SUFFIXES or begins_as_image(path)


def begins_as_image(path: Path) -> bool:
    """Tell whether a file begins as an image of a known format does; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(NUM_BYTES)
    except OSError:
        return False
    is_bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    is_netpbm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in {b" ", b"\n", b"\t", b"\r"}
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_boxed = head[4:8] == b"ftyp" and head[8:12] in _BRANDS
    return head.startswith(_STARTS) or is_bitmap or is_netpbm or is_webp or is_boxed

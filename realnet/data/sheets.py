"""Sheets of images for people to look at: PNG files that say who wrote them, and replace no others."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from realnet.data.images import Image
from realnet.errors import UserError
from realnet.runtime.files import whole

WRITER = {"Software": "RealNet"}


def write_sheet(path: Path, sheet: Image) -> None:
    """Write a sheet, uint8 RGB (H, W, 3), as PNG, so that a reader never sees a part of it.

    Raises:
        UserError: if it cannot be written.
    """
    note = PngInfo()
    for key, value in WRITER.items():
        note.add_text(key, value)
    with whole(path) as part:
        PILImage.fromarray(sheet).save(part, "PNG", pnginfo=note)


def require_replaceable(paths: Iterable[Path]) -> None:
    """Check before any work that sheets replace nothing but sheets.

    Raises:
        UserError: if a path is that of another file or a folder.
    """
    for path in paths:
        if path.exists() and not _is_sheet(path):
            raise UserError(f"{path} is not a sheet that a preview wrote; move it elsewhere, or give another --output")


def _is_sheet(path: Path) -> bool:
    with suppress(Exception), PILImage.open(path) as image:  # PIL raises many kinds of errors
        return WRITER.items() <= image.info.items()
    return False

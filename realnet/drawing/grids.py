"""Arrange images of one size in labelled rows and columns."""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from realnet.data.images import Image

PAPER, INK, GAP = (255, 255, 255), (60, 60, 60), 4
SMALLEST_SIDE = 96
"""Of a picture in pixels, so that its labels fit."""


def label_grid(
    rows: Sequence[Sequence[Image]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Image:
    """Arrange rows of images of one size on white paper, with labels on the left and above.

    Args:
        rows: uint8 RGB images (H, W, 3), all of one size; a row may be shorter than the first.
        row_labels: one per row, or none at all; a label may have several lines.
        column_labels: one per column, or none at all; an ellipsis cuts a label that does not fit.
        title: a line above everything; the paper is made wide enough for it.

    Raises:
        ValueError: if there is no image, if images differ in size, or if the number of labels is not that of the rows
            or columns.
    """
    height, width = _common_size(rows)
    num_columns = max(map(len, rows))
    for labels, expected, unit in ((row_labels, len(rows), "rows"), (column_labels, num_columns, "columns")):
        if labels and len(labels) != expected:
            raise ValueError(f"{len(labels)} labels for {expected} {unit}; give one each, or none")
    size = min(max(height // 16, 11), 32)
    left = max((_text_width(line, size) for label in row_labels for line in label.splitlines()), default=-GAP) + 2 * GAP
    head = (size + 2 * GAP) * bool(title)
    top = head + (size + 2 * GAP) * bool(column_labels) or GAP
    right = left + max(num_columns * (width + GAP), _text_width(title, size) + GAP)
    paper = PILImage.new("RGB", (right, top + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(paper)
    draw.text((left, GAP), title, INK, _font(size))
    for column, label in enumerate(column_labels):
        draw.text((left + column * (width + GAP), head + GAP), _fitting(label, size, width), INK, _font(size))
    for row, images in enumerate(rows):
        y = top + row * (height + GAP)
        if row_labels:
            draw.text((left - GAP, y + height // 2), row_labels[row], INK, _font(size), anchor="rm", align="right")
        for column, image in enumerate(images):
            paper.paste(PILImage.fromarray(image), (left + column * (width + GAP), y))
    return np.asarray(paper)


def enlarged(picture: Image) -> Image:
    """Return a picture repeated pixel by pixel until labels fit beside it; the picture itself if it is large enough."""
    factor = -(-SMALLEST_SIDE // min(picture.shape[:2]))
    if factor == 1:
        return picture
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST), np.uint8)


def _common_size(rows: Sequence[Sequence[Image]]) -> tuple[int, int]:
    sizes = {image.shape[:2] for row in rows for image in row}
    if len(sizes) != 1:
        raise ValueError(f"found images of sizes {sorted(sizes)}; give at least one, and all of one size")
    height, width = sizes.pop()
    return height, width


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return round(_font(size).getlength(text))


def _fitting(text: str, size: int, width: int) -> str:
    if _text_width(text, size) <= width:
        return text
    while text and _text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"

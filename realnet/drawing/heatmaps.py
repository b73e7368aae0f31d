"""Pictures of what the detector sees, and labelled grids; all images are uint8 RGB (H, W, 3)."""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from realnet.metrics.curves import FloatArray, MaskArray

Picture = NDArray[np.uint8]

HEAT_OPACITY = 0.65
"""Weight of the hottest colour over the image; colder pixels weigh less, so that a normal image stays itself."""
OUTLINE = (255, 255, 255)
OUTLINE_RIM = (20, 20, 20)
PAPER, INK, GAP = (255, 255, 255), (60, 60, 60), 4


def heatmap(anomaly_map: FloatArray, *, scale: float) -> Picture:
    """Colour an anomaly map (H, W) from dark blue at 0 to red at `scale` and above, as uint8 RGB (H, W, 3).

    The scale is stored with the model and the same for every image, so colours compare between pictures.

    Raises:
        ValueError: the scale is not a positive number.
    """
    levels = np.rint(_heat(anomaly_map, scale) * 255).astype(np.uint8)
    return _picture(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB))


def overlay(image: Picture, anomaly_map: FloatArray, *, scale: float, threshold: float | None = None) -> Picture:
    """Lay the heatmap over an image (H, W, 3) and outline the region whose anomaly is at least the threshold.

    Args:
        image: uint8 RGB (H, W, 3).
        anomaly_map: (H, W) in [0, 1].
        scale: the anomaly shown as hottest.
        threshold: the pixel threshold; None draws no outline.

    Raises:
        ValueError: the map is of another size than the image, or the scale is not a positive number.
    """
    if image.shape[:2] != anomaly_map.shape:
        raise ValueError(f"image of {image.shape[:2]} and anomaly map of {anomaly_map.shape}; resize one to the other")
    weight = HEAT_OPACITY * np.sqrt(_heat(anomaly_map, scale))[..., None]
    mixed = (1 - weight) * image + weight * heatmap(anomaly_map, scale=scale)
    picture = _picture(np.rint(mixed))
    return picture if threshold is None else _outlined(picture, anomaly_map >= threshold)


def mask_picture(mask: MaskArray) -> Picture:
    """Draw a mask (H, W), any non-zero value white, as uint8 RGB (H, W, 3)."""
    return _picture(np.repeat((mask != 0)[..., None] * 255, 3, axis=2))


def panel(
    image: Picture,
    anomaly_map: FloatArray,
    *,
    scale: float,
    threshold: float | None = None,
    mask: MaskArray | None = None,
    title: str = "",
) -> Picture:
    """Set image, mask (where there is one) and overlay side by side, each with its caption.

    Args:
        image: uint8 RGB (H, W, 3).
        anomaly_map: (H, W) in [0, 1].
        scale: the anomaly shown as hottest.
        threshold: the pixel threshold of the outline; None draws none.
        mask: truth (H, W); None leaves it out.
        title: a line above the captions, such as "0.93 >= 0.50: defect".
    """
    tiles = {"image": image}
    if mask is not None:
        tiles["mask"] = mask_picture(mask)
    tiles["anomaly map"] = overlay(image, anomaly_map, scale=scale, threshold=threshold)
    return label_grid([list(tiles.values())], column_labels=list(tiles), title=title)


def label_grid(
    rows: Sequence[Sequence[Picture]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Picture:
    """Arrange rows of images of one size on white paper, with labels on the left and above.

    Args:
        rows: uint8 RGB images (H, W, 3), all of one size; a row may be shorter than the first.
        row_labels: one a row, or none at all; a label may hold several lines.
        column_labels: one a column, or none at all.
        title: a line above all, for which the paper is wide enough; a column's label that does not fit is cut with an
            ellipsis.

    Raises:
        ValueError: no image, images of several sizes, or another number of labels than of rows or columns.
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
    paper = Image.new("RGB", (right, top + len(rows) * (height + GAP)), PAPER)
    draw = ImageDraw.Draw(paper)
    draw.text((left, GAP), title, INK, _font(size))
    for column, label in enumerate(column_labels):
        draw.text((left + column * (width + GAP), head + GAP), _fitting(label, size, width), INK, _font(size))
    for row, images in enumerate(rows):
        y = top + row * (height + GAP)
        if row_labels:
            draw.text((left - GAP, y + height // 2), row_labels[row], INK, _font(size), anchor="rm", align="right")
        for column, image in enumerate(images):
            paper.paste(Image.fromarray(image), (left + column * (width + GAP), y))
    return np.asarray(paper)


def _heat(anomaly_map: FloatArray, scale: float) -> NDArray[np.float64]:
    if not scale > 0:
        raise ValueError(f"display scale is {scale}; give the anomaly, above 0, that is shown as hottest")
    known = np.nan_to_num(anomaly_map.astype(np.float64), nan=scale)  # NaN shall not look normal
    return np.clip(known / scale, 0, 1)


def _outlined(picture: Picture, region: NDArray[np.bool_]) -> Picture:
    """Draw a light line with a dark rim around the region, outside of it: it shows on any image and hides no defect."""
    line = max(1, round(min(region.shape) / 256))
    inside = region.astype(np.uint8)
    light, dark = (cv2.dilate(inside, np.ones((side, side), np.uint8)) for side in (2 * line + 1, 4 * line + 1))
    picture[dark > inside] = OUTLINE_RIM
    picture[light > inside] = OUTLINE
    return picture


def _common_size(rows: Sequence[Sequence[Picture]]) -> tuple[int, int]:
    sizes = {image.shape[:2] for row in rows for image in row}
    if len(sizes) != 1:
        raise ValueError(f"images of sizes {sorted(sizes)}; give at least one, and all of one size")
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


def _picture(values: NDArray[np.generic]) -> Picture:
    return values.astype(np.uint8)

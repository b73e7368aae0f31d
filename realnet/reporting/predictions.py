"""The page of a prediction: every photograph with score and verdict; its threshold judges again in the browser.

The page is its start and then an element for each photograph, so it can be written, read and continued at any time; the
script makes only those cards that are on show.
"""

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np

from realnet.data.images import Image
from realnet.detection.detector import Prediction
from realnet.drawing.heatmaps import Display, overlay
from realnet.drawing.thumbnails import fit_peaks, thumbnail
from realnet.errors import printable
from realnet.reporting.document import page_start, script

SIDE, JPEG_QUALITY = 192, 75


def start_of_page(title: str, notes: Sequence[str], display: Display) -> str:
    """Return the page without photographs: notes, slider, filters.

    Args:
        title: what the photographs show.
        notes: lines below the title, such as the detector's file.
        display: the thresholds of the prediction.
    """
    known = display.threshold is not None and display.pixel_threshold is not None
    outlines = (
        f"White outlines surround pixels at or above {display.pixel_threshold:.4g}, the pixel threshold that goes with "
        f"the image threshold {display.threshold:.4g}. They stay as they are when you move the slider; a prediction "
        "with another --threshold draws them anew."
        if known
        else "The detector stores no threshold: verdicts follow the slider, and there are no outlines."
    )
    value = "" if display.threshold is None else repr(display.threshold)
    return (
        f"{page_start(title, [*notes, outlines], 'predictions.css')}"
        f'<main data-threshold="{value}"><noscript><p>The page needs JavaScript.</p></noscript></main>\n'
        f"{script('enlarge.js', 'predictions.js')}\n"
    )


def entry_of_page(file: str, image: Image, prediction: Prediction, picture: Path | None = None) -> str:
    """Return the element of a photograph, a line: its score, its number of regions, and a small picture.

    Args:
        file: the photograph's name.
        image: the photograph, uint8 RGB (H, W, 3).
        prediction: its result.
        picture: where its heatmap lies, relative to the page; None if it has none.
    """
    link = "" if picture is None else quote(os.fsencode(picture.as_posix()))
    return (
        f'<script type="text/plain" data-file="{escape(printable(file))}" data-score="{prediction.image_score!r}"'
        f' data-regions="{len(prediction.regions)}" data-picture="{link}">{_small(image, prediction)}</script>\n'
    )


def _small(image: Image, prediction: Prediction) -> str:
    """Return the photograph beside its heatmap as JPEG in base64."""
    small = thumbnail(image, SIDE)
    heat = overlay(
        small,
        fit_peaks(prediction.anomaly_map, small.shape[:2]),
        scale=prediction.display_scale,
        threshold=prediction.pixel_threshold,
    )
    both = cv2.cvtColor(np.concatenate([small, heat], axis=1), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", both, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return base64.b64encode(encoded.tobytes()).decode()

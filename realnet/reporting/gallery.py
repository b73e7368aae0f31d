"""Write the report's gallery as HTML: every test image with its mask, anomaly map and overlay."""

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from realnet.drawing import heatmaps
from realnet.drawing.heatmaps import Display, Image
from realnet.drawing.thumbnails import fit, thumbnail
from realnet.metrics.curves import FloatArray, MaskArray

JPEG_QUALITY = 82


@dataclass(frozen=True)
class Views:
    """What a card shows of a test image.

    Attributes:
        image: uint8 RGB (H, W, 3); the card shows a thumbnail of it, and map and mask at the thumbnail's size.
        anomaly_map: (h, w) in [0, 1].
        mask: truth (h', w'), bool or uint8; None if there is none.
    """

    image: Image
    anomaly_map: FloatArray
    mask: MaskArray | None = None


@dataclass(frozen=True)
class Item:
    """A test image: what the gallery sorts and filters by, and how to load the images of its card.

    Attributes:
        name: path shown to the reader.
        kind: kind of defect, or ``good``.
        is_defect: whether the image is a defect in truth.
        score: image score.
        load: called once, while the page is written, so that only one image is in memory at a time.
    """

    name: str
    kind: str
    is_defect: bool
    score: float
    load: Callable[[], Views]


def error_of(item: Item, threshold: float | None) -> str:
    """Return "missed", "alarm" (a false alarm), or "" if the verdict is right or there is none."""
    if threshold is None or item.is_defect == (item.score >= threshold):
        return ""
    return "missed" if item.is_defect else "alarm"


def gallery_parts(items: Sequence[Item], display: Display) -> Iterator[str]:
    """Yield the HTML of a gallery piece by piece, highest score first; each piece loads its image when it is made."""
    errors = Counter(error_of(item, display.threshold) for item in items)
    kinds = Counter(item.kind for item in items)
    yield '<div class="gallery"><div class="controls">'
    yield _buttons("kind", "kind", {"": f"all {len(items)}", **{k: f"{k} {n}" for k, n in sorted(kinds.items())}})
    if display.threshold is not None:
        texts = {"": "any", "missed": f"missed {errors['missed']}", "alarm": f"false alarm {errors['alarm']}"}
        yield _buttons("error", "error", texts)
    yield _buttons("order", "score", {"falling": "highest first", "rising": "lowest first"})
    yield '</div><p class="empty" hidden>No image has both this kind and this error.</p><div class="cards">\n'
    for item in sorted(items, key=lambda item: -math.inf if math.isnan(item.score) else -item.score):
        yield _card(item, display)
    yield "</div></div>"


def _buttons(filtered: str, title: str, texts: Mapping[str, str]) -> str:
    buttons = (
        f'<button type="button" data-filter="{filtered}" data-value="{escape(value)}"'
        f' aria-pressed="{"false" if number else "true"}">{escape(text)}</button>'
        for number, (value, text) in enumerate(texts.items())
    )
    return f"<div><span>{title}</span>{''.join(buttons)}</div>"


def _card(item: Item, display: Display) -> str:
    error = error_of(item, display.threshold)
    verdict = {"missed": " · missed", "alarm": " · false alarm"}.get(error, "")
    return (
        f'<article class="card {error}" data-kind="{escape(item.kind)}" data-error="{error}"><header>'
        f'<b>{escape(item.name)}</b><i>{escape(item.kind)} · {item.score:.4f}<span class="verdict">{verdict}</span></i>'
        f'</header><div class="tiles" data-turns>{"".join(_tiles(item, display))}</div></article>\n'
    )


def _tiles(item: Item, display: Display) -> Iterator[str]:
    views = item.load()
    image = thumbnail(views.image)
    size = image.shape[:2]
    anomaly_map = fit(views.anomaly_map.astype(np.float32), size)
    overlay = heatmaps.overlay(image, anomaly_map, scale=display.scale, threshold=display.pixel_threshold)
    yield _tile("image", _image(image, ".jpg"))
    yield _tile("mask", _mask(item, views.mask, size))
    yield _tile("anomaly map", _image(heatmaps.heatmap(anomaly_map, scale=display.scale), ".jpg"))
    yield _tile("overlay and outline", _image(overlay, ".jpg"))


def _tile(caption: str, content: str) -> str:
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def _mask(item: Item, mask: MaskArray | None, size: tuple[int, int]) -> str:
    if not item.is_defect or mask is None or not mask.any():
        text = "normal" if not item.is_defect else "no mask" if mask is None else _vanished(mask)
        return f'<div class="none" style="aspect-ratio: {size[1]} / {size[0]}">{text}</div>'
    share = fit((mask != 0).astype(np.float32), size)
    return _image(heatmaps.draw_mask(share > 0), ".png")  # the nearest pixel would lose a small defect


def _vanished(mask: MaskArray) -> str:
    return "the mask shows no defect at {}x{} pixels".format(*mask.shape)


def _image(picture: Image, ending: str) -> str:
    """Embed a picture as a data URI, on a button that enlarges it."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if ending == ".jpg" else []
    _, encoded = cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    kind = "jpeg" if ending == ".jpg" else "png"
    data = base64.b64encode(encoded.tobytes()).decode()
    image = f'<img alt="" loading="lazy" decoding="async" src="data:image/{kind};base64,{data}">'
    return f'<button type="button" class="zoom" aria-label="enlarge" title="enlarge">{image}</button>'

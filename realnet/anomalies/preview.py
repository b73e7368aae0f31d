"""Contact sheet of a class: its normal images, their foreground, and local anomalies as in training."""

import logging
from collections.abc import Mapping

import numpy as np

from realnet.anomalies.foreground import foreground_mask
from realnet.anomalies.synthesis import AnomalySynthesizer, build_synthesizer
from realnet.config import AnomalyConfig, AnomalyType, Foreground
from realnet.data.images import Image, read_image, resize_image
from realnet.data.order import spread
from realnet.data.registry import OpenDataset
from realnet.data.tiles import Tiling
from realnet.drawing.grids import label_grid
from realnet.drawing.heatmaps import draw_mask
from realnet.errors import UserError

logger = logging.getLogger(__name__)

BACKGROUND_LIGHT = 0.2


def contact_sheet(
    dataset: OpenDataset,
    class_name: str,
    config: AnomalyConfig,
    *,
    image_size: tuple[int, int],
    num_images: int,
    seed: int,
    tiling: Tiling | None = None,
) -> Image:
    """Draw normal images, their foreground and, for each configured anomaly source, a local anomaly with its mask.

    Sources without images are left out with a warning; if none remains, the images themselves are the source.

    Args:
        dataset: the dataset; a missing index is built but not written.
        class_name: one of its classes.
        config: anomaly settings; shows the types with a weight above 0, except ``normal``.
        image_size: (height, width) of an image.
        num_images: number of rows, spread evenly over the training images.
        seed: seed of the anomalies.
        tiling: shows a tile of each image, as the detector sees it; None: the whole image.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        UserError: if the class has no images, or one cannot be read.
    """
    foreground = dataset.config.foreground_of(class_name)
    entries = dataset.index(class_name, write=False).train
    chosen = [entries[index] for index in spread(len(entries), min(num_images, len(entries)))]
    synthesizers = _synthesizers(dataset, class_name, config, image_size, tiling)
    rows = []
    for number, entry in enumerate(chosen):
        image = resize_image(read_image(dataset.image_root / entry.filename, dataset.config.image_bits), image_size)
        pictures = [image, _dim_background(image, foreground)]
        drawn = [each.synthesize(image, np.random.default_rng((seed, 0, number))) for each in synthesizers.values()]
        if tiling:  # the same one of all, as they draw it from equal generators
            pictures = [tiling.cut(picture, drawn[0].corner) for picture in pictures]
        rows.append([*pictures, *(picture for one in drawn for picture in (one.image, draw_mask(one.mask)))])
    columns = ["normal", "foreground", *(title for kind in synthesizers for title in (kind, f"{kind}: mask"))]
    names = [entry.filename.rpartition("/")[2] for entry in chosen]
    title = f"{dataset.name} / {class_name}, foreground {_text(foreground)}"
    return label_grid(rows, row_labels=names, column_labels=columns, title=title)


def _synthesizers(
    dataset: OpenDataset,
    class_name: str,
    config: AnomalyConfig,
    image_size: tuple[int, int],
    tiling: Tiling | None,
) -> Mapping[AnomalyType, AnomalySynthesizer]:
    made: dict[AnomalyType, AnomalySynthesizer] = {}
    for kind in (kind for kind, weight in config.types.items() if weight > 0 and kind != "normal"):
        alone = config.model_copy(update={"types": {kind: 1.0}})
        try:
            made[kind] = build_synthesizer(alone, dataset, class_name, image_size=image_size, tiling=tiling)
        except UserError as error:
            logger.warning("left out of the preview: %s", error)
    own = AnomalyConfig(types={"self": 1.0})
    return made or {"self": build_synthesizer(own, dataset, class_name, image_size=image_size, tiling=tiling)}


def _dim_background(image: Image, foreground: Foreground) -> Image:
    light = np.where(foreground_mask(image, foreground), 1.0, BACKGROUND_LIGHT)[..., None]
    return (image * light).astype(np.uint8)


def _text(foreground: Foreground) -> str:
    return foreground if isinstance(foreground, str) else ", ".join(map(str, foreground.model_dump().values()))

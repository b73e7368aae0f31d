"""Draw the same images at growing anomaly strengths, to choose the range by (docs/method.md, SDAS)."""

from dataclasses import replace

from realnet.config import SampleConfig
from realnet.data.images import Image
from realnet.drawing.grids import enlarged, label_grid
from realnet.runtime.distributed import World
from realnet.runtime.progress import stoppable_bar
from realnet.sdas import image_folder
from realnet.sdas.sampler import Sampler, sample_batch

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
QUIET_SHARE = 0.1
"""Samplers without noise of their own need about a tenth of the strength of the ancestral one."""
NUM_IMAGES = 6


def strengths_sheet(sampler: Sampler, class_name: str, settings: SampleConfig, world: World) -> Image:
    """Return a sheet of the first images of a class, one a column, with a row for each strength (docs/method.md, SDAS).

    Raises:
        Stopped: after a signal.
    """
    first = settings.model_copy(update={"num_samples": NUM_IMAGES})
    wanted = image_folder.draws(class_name, first)
    scale = 1.0 if settings.sampler == "ancestral" else QUIET_SHARE
    strengths = [round(scale * strength, 3) for strength in STRENGTHS]
    each = [replace(draw, strength=strength) for strength in strengths for draw in wanted]
    batches = [each[start : start + settings.batch_size] for start in range(0, len(each), settings.batch_size)]
    images: list[Image] = []
    for batch in stoppable_bar(batches, f"{class_name}: preview", world):
        images += map(enlarged, sample_batch(sampler, batch, settings, world.precision))
    return label_grid(
        [images[start : start + NUM_IMAGES] for start in range(0, len(images), NUM_IMAGES)],
        row_labels=[f"strength {strength:g}" for strength in strengths],
        column_labels=[f"image {number}" for number in range(NUM_IMAGES)],
        title=f"{class_name}: each column is one image, of one noise",
    )

"""A class's folder of SDAS images: the draw of each image, the settings of all, and the manifest.

See docs/method.md, SDAS.
"""

import csv
import logging
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from realnet import config
from realnet.config import SampleConfig, paths
from realnet.data.folders import images_in
from realnet.errors import UserError
from realnet.runtime.files import read_text, refusing, whole, whole_file
from realnet.runtime.precision import Precision
from realnet.runtime.randomness import generator, seed_of
from realnet.sdas.quality import ImageScore

logger = logging.getLogger("realnet")


@dataclass(frozen=True)
class Draw:
    """The inputs of one image; the same draw with the same weights and settings gives the same image.

    Attributes:
        file: file name of the image.
        class_name: the class to sample.
        seed: seed of the noise: 128 bits, or 63 where ``has_short_seed``, of which 32 counted in version 1.0.
        strength: s ≥ 0.
        has_short_seed: whether the image is drawn as in version 1.0.
    """

    file: str
    class_name: str
    seed: int
    strength: float
    has_short_seed: bool = False

    def noise(self, size: tuple[int, ...]) -> Callable[[], Tensor]:
        """Return a function that draws noise of a size, standard normal float32, from call to call."""
        if self.has_short_seed:
            first = torch.Generator().manual_seed(self.seed)
            return lambda: torch.randn(size, generator=first)
        rng = generator("noise of an image", self.seed)
        return lambda: torch.from_numpy(rng.standard_normal(size, dtype=np.float32))


def draws(class_name: str, settings: SampleConfig) -> list[Draw]:
    """Return the draws of a class's images; each depends only on (seed, class, index) and the range of strengths."""
    draw = _draw_as_first if settings.draws == 1 else _draw
    return [draw(class_name, settings, index) for index in range(settings.num_samples)]


def _draw(class_name: str, settings: SampleConfig, index: int) -> Draw:
    seed = seed_of("sdas", settings.seed, class_name, index)
    strengths = settings.strength_of(class_name)
    strength = generator("strength of an image", seed).uniform(strengths.low, strengths.high)
    return Draw(f"{index:05d}.{settings.format}", class_name, seed, strength)


def _draw_as_first(class_name: str, settings: SampleConfig, index: int) -> Draw:
    """Return a draw of version 1.0."""
    sequence = np.random.SeedSequence((settings.seed, zlib.crc32(class_name.encode()), index))
    seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
    strengths = settings.strength_of(class_name)
    strength = float(np.random.default_rng(seed).uniform(strengths.low, strengths.high))
    return Draw(f"{index:05d}.{settings.format}", class_name, seed, strength, has_short_seed=True)


def as_begun(folder: Path, source: str, settings: SampleConfig, number_format: Precision) -> SampleConfig:
    """Return the settings with the draws of the images in a folder, if version 1.0 made them with these settings."""
    first, path = settings.model_copy(update={"draws": 1}), folder / paths.SDAS_SETTINGS
    is_first = path.is_file() and read_text(path) == describe(source, first, number_format)
    if is_first and settings.draws != 1:
        logger.warning("%s goes on as version 1.0 began it, with draws: 1; --no-resume has new ones", folder)
    return first if is_first else settings


def missing(folder: Path, wanted: Sequence[Draw]) -> list[Draw]:
    """Return the draws whose images are not in the folder."""
    return [draw for draw in wanted if not (folder / draw.file).exists()]


def describe(source: str, settings: SampleConfig, number_format: Precision) -> str:
    """Return as YAML what images depend on: the weights (named by ``source``), the settings and the number format."""
    kept = settings.model_copy(update={"num_samples": 1, "batch_size": 1, "runtime": config.RuntimeConfig()})
    settled = config.dump(kept).replace("draws: 1\n", "")  # as version 1.0 wrote it
    settled = re.sub(r"^require_ready: .*\n", "", settled, flags=re.MULTILINE)  # no image depends on it
    return f"# made from {source}; in {number_format.name}\n{settled}"


def require_settings(folder: Path, description: str) -> None:
    """Check that the images in a folder, if any, were made with these settings.

    Raises:
        UserError: if they were made with other settings.
    """
    settings = folder / paths.SDAS_SETTINGS
    if settings.exists() and read_text(settings) != description:
        raise UserError(
            f"{folder} holds images made with other settings (see {settings}); replace them with --no-resume, or write "
            "to another folder with --output"
        )


def require_own(folder: Path, wanted: Sequence[Draw]) -> None:
    """Check that sampling would neither replace nor adopt an image that it has not made.

    Raises:
        UserError: if the folder holds images but no settings of ours, or a needed name belongs to another's image.
    """
    own = set(_own_images(folder))
    is_ours = (folder / paths.SDAS_SETTINGS).exists()
    names = [draw.file for draw in wanted] if is_ours else images_in(folder)
    foreign = [name for name in names if name not in own and (folder / name).exists()]
    if foreign:
        raise UserError(
            f"{folder} holds {len(foreign)} images that sample.py did not make, such as {foreign[0]}; move them "
            "elsewhere, or write to another folder with --output"
        )


def _own_images(folder: Path) -> list[str]:
    """Return the names of the images in a folder that sampling may replace and remove, in order."""
    if (folder / paths.SDAS_OWN).is_file():
        names = read_text(folder / paths.SDAS_OWN).split("\n")
        return [name for name in names if name and Path(name).name == name]
    if not (folder / paths.SDAS_SETTINGS).exists():
        return []
    return [name for name in images_in(folder) if re.fullmatch(r"\d{5,}\.(jpg|png)", name)]  # version 1.0 kept no list


def prepare(folder: Path, description: str, wanted: Sequence[Draw], *, resume: bool) -> None:
    """Create the folder, and write its settings and the names of its images; without ``resume``, delete these images.

    Raises:
        UserError: if the folder holds images made with other settings or by others, or cannot be written.
    """
    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    settings, own = folder / paths.SDAS_SETTINGS, _own_images(folder)
    require_own(folder, wanted)
    if not resume:
        # the manifest first, which calls the folder complete, and the settings last, which the images are made with
        for name in (paths.SDAS_MANIFEST, paths.SDAS_QUALITY, *own, paths.SDAS_OWN, paths.SDAS_SETTINGS):
            (folder / name).unlink(missing_ok=True)
        own = []
    require_settings(folder, description)
    with whole_file(folder / paths.SDAS_OWN) as file:
        file.writelines(f"{name}\n" for name in dict.fromkeys([*own, *(draw.file for draw in wanted)]))
    with whole(settings) as part:
        part.write_text(description, encoding="utf-8")


def write_manifest(folder: Path, wanted: Sequence[Draw], source: str, scores: Sequence[ImageScore] | None) -> None:
    """Write the list of a folder's images, with their scores if there are any; it marks the folder as complete."""
    names = [field.name for field in fields(ImageScore)] if scores else []
    with whole_file(folder / paths.SDAS_MANIFEST) as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "seed", "strength", "checkpoint", *names])
        for number, draw in enumerate(wanted):
            values = [_written(getattr(scores[number], name)) for name in names] if scores else []
            rows.writerow([draw.file, draw.class_name, draw.seed, f"{draw.strength:.6f}", source, *values])


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

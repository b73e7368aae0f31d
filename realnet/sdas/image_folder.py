"""A class's folder of SDAS images: what makes each, the settings that it is bound to, and its manifest."""

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realnet import config
from realnet.config import SampleConfig, paths
from realnet.errors import UserError
from realnet.runtime.files import refusing, whole
from realnet.runtime.precision import Precision


@dataclass(frozen=True)
class Draw:
    """What makes an image: with the same weights and settings the same draw gives the same image.

    Attributes:
        file: its name.
        class_name: the class to sample.
        seed: of its noise.
        strength: s ≥ 0.
    """

    file: str
    class_name: str
    seed: int
    strength: float


def draws(class_name: str, settings: SampleConfig) -> list[Draw]:
    """Return what makes each of a class's images, from (seed, class, index) alone."""
    made = []
    for index in range(settings.num_samples):
        sequence = np.random.SeedSequence((settings.seed, zlib.crc32(class_name.encode()), index))
        seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        strength = np.random.default_rng(seed).uniform(settings.strength.low, settings.strength.high)
        made.append(Draw(f"{index:05d}.{settings.format}", class_name, seed, float(strength)))
    return made


def missing(folder: Path, wanted: Sequence[Draw]) -> list[Draw]:
    """Return the draws whose images are not in the folder."""
    return [draw for draw in wanted if not (folder / draw.file).exists()]


def describe(source: str, settings: SampleConfig, number_format: Precision) -> str:
    """Return what images depend on, as YAML: weights (named by ``source``), settings and number format."""
    kept = settings.model_copy(update={"num_samples": 1, "batch_size": 1, "runtime": config.RuntimeConfig()})
    return f"# made from {source}; in {number_format.name}\n{config.dump(kept)}"


def require_settings(folder: Path, description: str) -> None:
    """Check that images of a folder, where it holds some, were made as new ones would be.

    Raises:
        UserError: where they were not.
    """
    settings = folder / paths.SDAS_SETTINGS
    if settings.exists() and settings.read_text(encoding="utf-8") != description:
        raise UserError(
            f"{folder} holds images of other settings (see {settings}); --no-resume makes all anew in their place, "
            "--output writes elsewhere"
        )


def prepare(folder: Path, description: str, resume: bool) -> None:
    """Make the folder ready; refuse to mix images of other settings with new ones."""
    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    settings = folder / paths.SDAS_SETTINGS
    if not resume:
        # the settings last: whoever is killed before leaves no images without the settings they were made with
        for file in [*folder.glob("[0-9]*.jpg"), *folder.glob("[0-9]*.png"), folder / paths.SDAS_MANIFEST, settings]:
            file.unlink(missing_ok=True)
    require_settings(folder, description)
    partial = folder / f".{paths.SDAS_SETTINGS}"
    with whole(settings, partial):
        partial.write_text(description, encoding="utf-8")


def write_manifest(folder: Path, wanted: Sequence[Draw], source: str) -> None:
    """List a folder's images; it is whole then."""
    partial = folder / f".{paths.SDAS_MANIFEST}"
    with whole(folder / paths.SDAS_MANIFEST, partial), partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "seed", "strength", "checkpoint"])
        rows.writerows([draw.file, draw.class_name, draw.seed, f"{draw.strength:.6f}", source] for draw in wanted)

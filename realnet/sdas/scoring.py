"""Score a class's sampled images by the features of its detector's backbone; the scores are computed once."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realnet.config import RealNetConfig, load, paths
from realnet.data.registry import OpenDataset
from realnet.errors import Stopped, UserError
from realnet.metrics.two_samples import Estimate
from realnet.runtime import contents, distributed
from realnet.runtime.distributed import World
from realnet.runtime.files import whole
from realnet.sdas.descriptions import Describer
from realnet.sdas.quality import Descriptions, ImageScore, Quality, judge

RULE = 2
"""Changes with the scores' definition, so that stored ones are computed anew."""
logger = logging.getLogger("realnet")


class Scorer:
    """Score the sampled images of a dataset's classes (docs/method.md, Quality of images).

    Args:
        dataset: the dataset, whose ``realnet.yaml`` names the backbone.
        image_size: (H, W) of the sampled images.
        world: this process; the processes share the images.
    """

    def __init__(self, dataset: OpenDataset, image_size: tuple[int, int], world: World) -> None:
        self.dataset, self.image_size, self.world = dataset, image_size, world
        self._describer: Describer | None = None

    def score(self, class_name: str, folder: Path, names: Sequence[str]) -> Quality | None:
        """Return the scores of a folder's images, and keep them there; None, with a warning, where that is impossible.

        Normal images or the backbone's weights may be absent where images are sampled.

        Raises:
            Stopped: after a signal; the same command goes on.
        """
        try:
            found = self._score(class_name, folder, names)
        except UserError as error:
            logger.warning(
                "WARNING: the images of class %s have no scores of quality: %s; after that the same command adds them",
                class_name,
                error,
            )
            return None
        except Stopped:
            logger.info("%s: stopped before all images had scores; run the same command again to continue", class_name)
            raise
        logger.info("%s", summary(class_name, found))
        return found

    def _score(self, class_name: str, folder: Path, names: Sequence[str]) -> Quality:
        with distributed.refusing_together():
            normal = [self.dataset.image_root / e.filename for e in self.dataset.index(class_name, write=False).train]
            files = [*(folder / name for name in names), *normal]
            describer = self._describer = self._describer or self._load()
            inputs = _digest(RULE, describer.key, list(names), contents.checksums(files, folder))
        stored = _read(folder / paths.SDAS_QUALITY, inputs)
        if not distributed.any_process(stored is None) and stored:
            return stored
        described, number = describer.describe(files, folder, f"{class_name}: scores"), len(names)
        parts = (
            Descriptions(described.appearance[part], described.layout[part])
            for part in (slice(None, number), slice(number, None))
        )
        found = judge(*parts)
        with distributed.refusing_together():
            if self.world.is_main:
                _write(folder / paths.SDAS_QUALITY, inputs, found)
                contents.keep(folder)
        return found

    def _load(self) -> Describer:
        config = load(RealNetConfig, paths.config_file(self.dataset.name, "realnet"))
        return Describer(config, self.image_size, self.world, image_bits=self.dataset.config.image_bits)


def summary(class_name: str, quality: Quality) -> str:
    """Describe the quality of a class's images in a line."""
    scores, realism = quality.scores, quality.realism
    copies = sum(score.is_copy for score in scores)
    beyond = sum(score.off_manifold > quality.widest for score in scores)
    distance = f"{realism.value:.2f} ({realism.low:.2f} to {realism.high:.2f})" if realism else "not known of so few"
    return (
        f"{class_name}: distance of all images from normal ones {distance}, 0 if alike; {copies} of {len(scores)} are "
        f"copies, {beyond} are further off than any normal image"
    )


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _write(path: Path, inputs: str, quality: Quality) -> None:
    """Write the scores, with a digest of what they depend on."""
    with whole(path) as part:
        part.write_text(json.dumps({"inputs": inputs, **asdict(quality)}, indent=1), encoding="utf-8")


def _read(path: Path, inputs: str) -> Quality | None:
    """Return the stored scores, if they depend on the same inputs."""
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        if stored["inputs"] != inputs:
            return None
        realism = stored["realism"] and Estimate(**stored["realism"])
        return Quality(tuple(ImageScore(**score) for score in stored["scores"]), realism, stored["widest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

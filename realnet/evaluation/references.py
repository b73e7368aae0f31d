"""Fit a reference detector to a class's training images, and score its test split."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from realnet.config import EvaluationConfig, RealNetConfig
from realnet.data.cache import ImageCache
from realnet.data.images import to_batch
from realnet.data.registry import OpenDataset
from realnet.detection.checkpoints import ReferenceName
from realnet.detection.references import Reference, build_reference, require_whole
from realnet.evaluation.scores import ClassScores, scores_of
from realnet.evaluation.split import TestSplit, interleave
from realnet.models import checkpoint
from realnet.models.backbone import Backbone
from realnet.models.build import build_backbone, has_backbone, settle, store_for
from realnet.models.known_features import KnownFeatures
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.runtime.placement import make_ready
from realnet.runtime.progress import bar


class ReferenceMaker:
    """Fit references to a class's training images, which are decoded once.

    Args:
        dataset: the dataset of the class.
        class_name: name of the class.
        config: names the backbone, its levels and the image size.
        world: this process; each process fits its own reference, with the same result.

    Raises:
        UserError: for a config with tiles.
    """

    def __init__(
        self,
        dataset: OpenDataset,
        class_name: str,
        config: RealNetConfig,
        world: World,
        *,
        checkpoint_path: Path | None = None,
    ) -> None:
        require_whole(config)
        self.class_name, self.config, self.world = class_name, config, world
        backbone = make_ready(_backbone(config, checkpoint_path), world.precision.in_float32(), config.runtime)
        blocks = settle(config).blocks
        assert isinstance(blocks, dict)
        levels = [level for block in blocks.values() for level in block.levels]
        self.known = KnownFeatures(backbone, levels, store_for(config.runtime))
        files = [dataset.image_root / entry.filename for entry in dataset.index(class_name).train]
        self.images = ImageCache(files, config.image_size, bits=dataset.config.image_bits)

    def fit(self, name: ReferenceName) -> Reference:
        """Return a reference fitted to the training images.

        Raises:
            UserError: if an image cannot be read, or there are too few.
        """
        reference = build_reference(name, self.known, self.config.image_size, seed=self.config.seed)
        reference.fit(self.batches(f"{self.class_name}: {name}"))
        return reference

    def batches(self, description: str) -> Iterator[Tensor]:
        """Yield the training images in batches (B, 3, H, W), ImageNet-normalised, on the device; show a bar."""
        size, number = self.config.evaluation.batch_size, len(self.images)
        with bar(total=number, description=description, is_main=self.world.is_main) as progress:
            for start in range(0, number, size):
                indexes = range(start, min(start + size, number))
                yield to_batch([self.images[index] for index in indexes]).to(self.world.device)
                progress.update(len(indexes))


def _backbone(config: RealNetConfig, checkpoint_path: Path | None) -> Backbone:
    """Return the backbone that a config names, or that a published checkpoint brings."""
    stored = checkpoint.load(checkpoint_path, kind="realnet", mapped=True) if checkpoint_path else None
    if stored is None or not has_backbone(stored.state_dict):
        return build_backbone(config)
    backbone = build_backbone(config, "given")
    brought = {key: value for key, value in stored.state_dict.items() if key.startswith("backbone.")}
    state = {key.removeprefix("backbone."): value for key, value in brought.items()}
    checkpoint.load_into(backbone, state, str(checkpoint_path))
    return backbone


def score_reference(reference: Reference, split: TestSplit, *, world: World, config: EvaluationConfig) -> ClassScores:
    """Score a test split with a fitted reference; several processes share the images, and each gets the whole result.

    Raises:
        UserError: on all processes, if an image or a mask cannot be used.
    """
    maps, scores = np.zeros((split.num_own, *split.image_size), np.float32), np.zeros(split.num_own)
    with distributed.refusing_together():
        for part, images in split.batches(config.batch_size):
            output = reference.predict(images.to(world.device))
            maps[part], scores[part] = output.maps.cpu().numpy(), output.scores.cpu().numpy()
    whole, whole_scores = (interleave(distributed.gather(mine)) for mine in (maps, scores))
    return scores_of(split, whole, whole_scores, resolution=config.resolution)

"""Complete a trained detector's checkpoint: fusion, score pool, coarse pass and thresholds.

See docs/method.md, Fusion, Tiles, Calibration.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from realnet.config import RealNetConfig
from realnet.data.images import Image, read_image, resize_image
from realnet.data.items import flipped_and_turned
from realnet.data.tiles import Tiling
from realnet.detection.calibration import Calibration, calibrate
from realnet.detection.context import fit_context
from realnet.detection.examples import draw_probes, join_examples
from realnet.detection.fusion import choose_pool, fit_fusion
from realnet.detection.tiling import TileJudge
from realnet.models import checkpoint
from realnet.models.checkpoint import Checkpoint
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World
from realnet.runtime.progress import stoppable_bar
from realnet.training.detector_data import DetectorData


def lacks_calibration(path: Path) -> bool:
    """Tell whether a file is a detector's checkpoint that is not complete yet."""
    return path.is_file() and "calibration" not in checkpoint.load(path, kind="realnet", mapped=True).facts


def completed(
    stored: Checkpoint, model: RealNet, unseen: nn.ModuleDict, data: DetectorData, config: RealNetConfig, world: World
) -> Checkpoint:
    """Return a checkpoint with fusion, score pool and thresholds added.

    Args:
        stored: the checkpoint.
        model: the detector with the checkpoint's weights; left in eval mode with its fusion fitted.
        unseen: the normal statistics that have not seen the held-out images; the model's own have.
        data: its held-out images are measured, or without any those of training.
        config: of the detector.
        world: this process, which works alone.
    """
    model.eval()  # no batch norm may learn from what is drawn here
    with _measured_by(model, unseen):
        config, found = _fit(model, data, config, world)
    values = [one and asdict(one) for one in found]
    facts = {**stored.facts, "calibration": values[-1]}
    if data.classes:
        facts["calibrations"] = dict(zip(data.classes, values, strict=False))
    return replace(stored, state_dict=model.trainable_state(), config=config.model_dump(mode="json"), facts=facts)


@contextmanager
def _measured_by(model: RealNet, statistics: nn.ModuleDict) -> Iterator[None]:
    own, model.normal = model.normal, statistics
    try:
        yield
    finally:
        model.normal = own


def _fit(
    model: RealNet, data: DetectorData, config: RealNetConfig, world: World
) -> tuple[RealNetConfig, list[Calibration | None]]:
    """Fit the model's fusion and context; return the config with the score pool, and the thresholds.

    Those of a unified detector are of each class, and at the end for an image of unknown class.
    """
    parts, description = data.by_class(), f"{data.class_name}: calibration"
    examples = [part.draw_examples(part.held_out or part.train, config) for part in parts]
    pairs = zip(parts, examples, strict=True)
    probes = [draw_probes(one, part.synthesizer.of(part.class_name), config) for part, one in pairs]
    models = [model.of_class(number) for number in range(len(parts))]
    if config.detector.fuse.position:
        for one, its_probes in zip(models, probes, strict=True):
            fit_fusion(one, its_probes, config=config, world=world, description=description)
    if config.evaluation.score_pool == "auto":
        pool = choose_pool(model, join_examples(probes), config=config, world=world, description=description)
        evaluation = config.evaluation.model_copy(update={"score_pool": pool})
        config = config.model_copy(update={"evaluation": evaluation})
    held_out, by_tiles = [bool(part.held_out) for part in parts], TileJudge.of(config, data.synthesizer.foreground)
    if by_tiles and by_tiles.has_context:
        shrunk = _shrunk(data, by_tiles.tiling, config, world)
        ridge = config.features.ridge
        fit_context(model, shrunk, examples[0].normal, by_tiles=by_tiles, ridge=ridge, world=world)
    if data.classes:
        models, examples = [*models, model], [*examples, join_examples(examples)]
        held_out = [*held_out, all(held_out)]
    found = [
        calibrate(used, one, config=config, world=world, held_out=held, by_tiles=by_tiles, description=description)
        for used, one, held in zip(models, examples, held_out, strict=True)
    ]
    return config, found


def _shrunk(data: DetectorData, tiling: Tiling, config: RealNetConfig, world: World) -> Iterator[Image]:
    """Yield the training photographs at a tile's size, with augmentation flipped and rotated."""
    for entry in stoppable_bar(data.train, f"{data.class_name}: whole photographs", world):
        image = resize_image(read_image(data.image_root / entry.filename, data.image_bits), config.image_size)
        for view in flipped_and_turned(image) if config.train.augment else [image]:
            yield tiling.shrink(view)

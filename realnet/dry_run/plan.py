"""``--dry-run``: describe what a command would do and how much memory it would need."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from realnet.config import (
    ClassifierConfig,
    DiffusionConfig,
    RealNetConfig,
    SampleConfig,
    Section,
    TrainingConfig,
    dump,
    paths,
)
from realnet.data.registry import OpenDataset
from realnet.detection.checkpoints import REFERENCES, Protocol, ReferenceName, Subject
from realnet.detection.detector import Detector
from realnet.detection.loading import require_fit
from realnet.detection.references import require_whole
from realnet.dry_run import rehearsal
from realnet.dry_run.meter import gigabytes
from realnet.dry_run.timing import tiles_facts
from realnet.inspection.check import require_sound
from realnet.models.build import build_classifier, build_detector, build_diffusion, build_unet
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import World
from realnet.runtime.precision import Precision
from realnet.sdas import image_folder
from realnet.sdas.readiness import verdict
from realnet.sdas.sampler import Sampler
from realnet.training import state
from realnet.training.batches import require_batches
from realnet.training.classifier_task import NEW_HEADS as CLASSIFIER_HEADS
from realnet.training.detector_data import DetectorData
from realnet.training.detector_task import SLOW, is_slow
from realnet.training.diffusion_task import NEW_HEADS as UNET_HEADS
from realnet.training.diffusion_task import NormalImages, load_pretrained
from realnet.training.normal_statistics import EVERYWHERE
from realnet.training.statistics_need import matrix_bytes, require_folds, require_memory

MAP_BYTES = 4 + 1  # for each pixel: float32 of the anomaly map, and the mask


def show(config: Section, facts: Mapping[str, object], world: World) -> None:
    """Print the resolved config and the plan, on the main process."""
    if not world.is_main:
        return
    print(dump(config))
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def diffusion(config: DiffusionConfig, data: NormalImages, world: World, *, resume: bool = True) -> dict[str, object]:
    """Return the plan of diffusion training.

    Raises:
        UserError: for all that the training would refuse before its first step.
    """
    build_diffusion(config.process, config.validation.respacing)
    with torch.device("meta"):
        model = build_unet(config, len(data.classes))
    facts = _training_facts(config, data, world, model, stage="diffusion", new_heads=UNET_HEADS, resume=resume)
    need = rehearsal.diffusion_training(config, len(data.classes), world.precision)
    return {**facts, "memory": _memory(need, world.precision)}


def classifier(config: ClassifierConfig, data: NormalImages, world: World, *, resume: bool = True) -> dict[str, object]:
    """Return the plan of classifier training; raises as :func:`diffusion`."""
    with torch.device("meta"):
        model = build_classifier(config, len(data.classes))
    facts = _training_facts(config, data, world, model, stage="classifier", new_heads=CLASSIFIER_HEADS, resume=resume)
    need = rehearsal.classifier_training(config, len(data.classes), world.precision)
    return {**facts, "memory": _memory(need, world.precision)}


def sampling(
    config: SampleConfig,
    sampler: Sampler,
    classes: Sequence[str],
    root: Path,
    world: World,
    *,
    resume: bool = True,
) -> dict[str, object]:
    """Return the plan of sampling; the sampler cannot be used afterwards.

    Raises:
        UserError: if a class's folder holds images made with other settings or by others.
    """
    wanted = {name: image_folder.draws(name, config) for name in classes}
    for name, draws in wanted.items():
        image_folder.require_own(root / name, draws)
    for name in classes if resume else ():
        begun = image_folder.as_begun(root / name, sampler.source, config.of_class(name), world.precision)
        image_folder.require_settings(root / name, image_folder.describe(sampler.source, begun, world.precision))
        wanted[name] = image_folder.missing(root / name, wanted[name])
    return {
        "checkpoint": sampler.source,
        "its model is": verdict(sampler.health),
        "guidance": f"scale {sampler.guidance.scale}" if sampler.guidance else "none",
        "images": f"{config.num_samples} for each of {', '.join(classes)}, {sampler.diffusion.num_steps} steps each",
        "new": f"{', '.join(str(len(draws)) for draws in wanted.values())} of these, by {world.size} processes",
        "size": "x".join(map(str, sampler.image_size)),
        "writes": str(root),
        "memory": _memory(rehearsal.sampling(sampler, config, world.precision), world.precision),
    }


def detectors(
    config: RealNetConfig, jobs: Sequence[DetectorData], world: World, *, resume: bool = True
) -> dict[str, object]:
    """Return the plan of detector training; raises as :func:`diffusion`. Loading the backbone checks its weights."""
    model = build_detector(config, only_backbone=True)
    trainable = _count([*model.recon.parameters(), *model.rrs.parameters()])
    frozen = _count(model.backbone.parameters())
    levels = ", ".join(f"{level.name} {level.channels}@{level.stride}" for level in model.backbone.levels)
    steps = _steps(config, {job.class_name: len(job.train) for job in jobs}, world)
    identity = cache(model.backbone.identity)

    def begins(job: DetectorData) -> int:
        own, last = config.seeded(job.seed), job.folder("checkpoints") / paths.LAST
        return state.first_step(own, job.train, world, last, lambda: job.subject(own, identity()))

    return {
        "classes": ", ".join(f"{j.name} ({_numbers(j)})" for j in jobs),
        "backbone": f"{config.backbone.name}: {levels} (channels@stride), for images of {model.backbone.statistics}",
        "parameters": f"{trainable / 1e6:.1f} M trained, {frozen / 1e6:.1f} M frozen",
        **steps,
        **_beginning([begins(job) if resume else 0 for job in jobs]),
        **_statistics(config, model, jobs, world.device),
        **tiles_facts(config, world.precision),
        "memory": _memory(rehearsal.detector_training(model, config, world.precision), world.precision),
        **({"advice": SLOW} if is_slow(config, world.device) else {}),
    }


def _statistics(
    config: RealNetConfig, model: RealNet, jobs: Sequence[DetectorData], device: torch.device
) -> dict[str, object]:
    """Return the memory that statistics by position need in addition to a step; ``auto`` may choose them."""
    if config.features.normalise == "none":
        return {}
    parts = [job.by_class() for job in jobs]
    require_folds(min(len(part.train) for of_one in parts for part in of_one), config.features.folds)
    if config.features.normalise in EVERYWHERE:
        return {}
    need = require_memory(model, config.image_size, config.features.folds, device, number := max(map(len, parts)))
    in_use = gigabytes(number * matrix_bytes(model, config.image_size))
    return {"normal statistics": f"{gigabytes(need)} in training, {in_use} in use and on disk"}


def evaluation(
    config: RealNetConfig,
    dataset: OpenDataset,
    chosen: Mapping[Subject, Mapping[Protocol, Path]],
    world: World,
    *,
    references: Sequence[ReferenceName] = (),
) -> dict[str, object]:
    """Return the plan of an evaluation; reads every checkpoint, but the backbone's weights only for the first.

    Raises:
        UserError: if a checkpoint or the images of a class are unusable.
    """
    classes = list(dict.fromkeys(subject.class_name for subject in chosen))
    require_sound(dataset, classes)
    facts: dict[str, object] = {}
    numbers = {name: len(dataset.index(name, write=False).test) for name in classes}
    detector: Detector | None = None
    for subject, checkpoints in chosen.items():
        name = subject.class_name
        for path in checkpoints.values():
            if detector is None:
                detector = Detector.load(
                    path, precision=world.precision.on("meta"), config=config, dataset=dataset.name, class_name=name
                )
            else:
                require_fit(path, config, dataset=dataset.name, class_name=name)
        facts[f"class {subject}"] = (
            f"{numbers[name]} test images by {', '.join(map(str, (*checkpoints.values(), *references)))}"
        )
    if references:
        require_whole(detector.config if detector else config)
        facts["references"] = f"fitted to the training images: {', '.join(REFERENCES[name] for name in references)}"
    height, width = detector.config.image_size if detector else config.image_size
    if detector:
        facts |= tiles_facts(detector.config, world.precision)
        facts["memory"] = _detection_memory(detector, config.evaluation.batch_size, world)
    facts["memory of maps and masks"] = f"{gigabytes(max(numbers.values()) * height * width * MAP_BYTES)} in addition"
    return facts


def prediction(detector: Detector, source: str, num_files: int | None, output: Path, world: World) -> dict[str, object]:
    """Return the plan of a prediction; None stands for an unknown number. The detector cannot be used afterwards."""
    tiled = detector.config.tiles is not None
    exported = None if detector.is_torch else detector.runtime
    return {
        "checkpoint": source,
        "thresholds": detector.calibration or "none stored: no verdicts without --threshold",
        "images": "not known beforehand" if num_files is None else num_files,
        "writes": str(output),
        **tiles_facts(detector.config, world.precision, exported),
        **(
            {"memory": _detection_memory(detector, detector.config.evaluation.batch_size if tiled else 1, world)}
            if detector.is_torch
            else {"runs in": detector.runtime.name}
        ),
    }


def _detection_memory(detector: Detector, batch: int, world: World) -> str:
    return _memory(
        rehearsal.detection(detector.model, detector.config.input_size, batch, world.precision), world.precision
    )


def _training_facts(
    config: DiffusionConfig | ClassifierConfig,
    data: NormalImages,
    world: World,
    model: nn.Module,
    *,
    stage: Literal["diffusion", "classifier"],
    new_heads: Sequence[str],
    resume: bool,
) -> dict[str, object]:
    """Return the plan of training on normal images, without memory; ``model`` is on the meta device."""
    steps = _steps(config, {data.dataset: len(data.entries)}, world)
    last = paths.output(data.dataset, stage, "checkpoints") / paths.LAST
    step = state.first_step(config, data.entries, world, last, lambda: data.subject(stage)) if resume else 0
    if not step:
        load_pretrained(model, config.pretrained, kind=stage, new_heads=new_heads)
    return {
        "classes": ", ".join(data.classes),
        "images": len(data.entries),
        "parameters": f"{_count(model.parameters()) / 1e6:.1f} M",
        **steps,
        **_beginning([step]),
    }


def _beginning(steps: Sequence[int]) -> dict[str, object]:
    return {"begins": ", ".join(f"at step {step}" for step in steps)}


def _numbers(job: DetectorData) -> str:
    held_out = f", {len(job.held_out)} held out" if job.held_out else ""
    real = f", {len(job.real_files)} real defects" if job.real_files else ""
    return f"{len(job.train)} train{held_out}{real}, {len(job.test)} test"


def _steps(config: TrainingConfig, numbers: Mapping[str, int], world: World) -> dict[str, object]:
    require_batches(numbers, config.train, world.size)
    batch = config.train.batch_size * config.train.accumulation * world.size
    steps = [config.train.num_steps or config.train.num_epochs * (number // batch) for number in numbers.values()]
    return {"batch": f"{batch} a step, by {world.size} processes", "steps": ", ".join(map(str, steps))}


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _memory(number: int, number_format: Precision) -> str:
    where = number_format.device.type
    kept = "; memory that is freed but kept can add a third" if where == "cpu" else ""
    return f"{gigabytes(number)} at the peak of a step, on {where} in {number_format.name}{kept}"

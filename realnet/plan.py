"""``--dry-run``: what a command would do, and the memory it would need, without doing it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from realnet import paths, precision, rehearsal, samples
from realnet.config import ClassifierConfig, DiffusionConfig, RealNetConfig, SampleConfig, Section, TrainingConfig, dump
from realnet.data.check import require_sound
from realnet.data.registry import OpenDataset
from realnet.detector import Detector, require_fit
from realnet.distributed import Process
from realnet.networks import build_classifier, build_detector, build_diffusion, build_unet
from realnet.precision import Precision
from realnet.reporting.results import Protocol
from realnet.sampling import Sampler
from realnet.training import state
from realnet.training.batches import require_batches
from realnet.training.classifier import NEW_HEADS as CLASSIFIER_HEADS
from realnet.training.detector import DetectorData
from realnet.training.diffusion import NEW_HEADS as UNET_HEADS
from realnet.training.diffusion import NormalImages, load_pretrained
from realnet.training.health import verdict

MAP_BYTES = 4 + 1  # a pixel of an anomaly map, and of its mask


def show(config: Section, facts: Mapping[str, object], process: Process) -> None:
    """Print the resolved config and the plan, on the main process."""
    if not process.is_main:
        return
    print(dump(config))
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def diffusion(
    config: DiffusionConfig, data: NormalImages, process: Process, *, resume: bool = True
) -> dict[str, object]:
    """Return the plan of diffusion training by a process of a run to come.

    Raises:
        UserError: as the training does before its first step.
    """
    build_diffusion(config.process, config.validation.respacing)
    number_format = precision.planned(config.runtime.precision, process.device)
    with torch.device("meta"):
        model = build_unet(config, len(data.classes))
    facts = _training_facts(config, data, process, model, stage="diffusion", new_heads=UNET_HEADS, resume=resume)
    need = rehearsal.diffusion_training(config, len(data.classes), number_format)
    return {**facts, "memory": _memory(need, number_format)}


def classifier(
    config: ClassifierConfig, data: NormalImages, process: Process, *, resume: bool = True
) -> dict[str, object]:
    """Return the plan of classifier training, as :func:`diffusion`."""
    number_format = precision.planned(config.runtime.precision, process.device)
    with torch.device("meta"):
        model = build_classifier(config, len(data.classes))
    facts = _training_facts(config, data, process, model, stage="classifier", new_heads=CLASSIFIER_HEADS, resume=resume)
    need = rehearsal.classifier_training(config, len(data.classes), number_format)
    return {**facts, "memory": _memory(need, number_format)}


def sampling(
    config: SampleConfig,
    sampler: Sampler,
    classes: Sequence[str],
    root: Path,
    process: Process,
    *,
    resume: bool = True,
) -> dict[str, object]:
    """Return the plan of sampling; the sampler is of no use afterwards.

    Raises:
        UserError: where a class's folder holds images of other settings.
    """
    number_format = precision.planned(config.runtime.precision, process.device)
    wanted = {name: samples.draws(name, config) for name in classes}
    if resume:
        for name in classes:
            samples.require_settings(root / name, samples.describe(sampler.source, config, number_format))
            wanted[name] = samples.missing(root / name, wanted[name])
    return {
        "checkpoint": sampler.source,
        "its model is": verdict(sampler.health),
        "guidance": f"scale {sampler.guidance.scale}" if sampler.guidance else "none",
        "images": f"{config.num_samples} for each of {', '.join(classes)}, {sampler.diffusion.num_steps} steps each",
        "new": f"{', '.join(str(len(draws)) for draws in wanted.values())} of these, by {process.world_size} processes",
        "size": "x".join(map(str, sampler.image_size)),
        "writes": str(root),
        "memory": _memory(rehearsal.sampling(sampler, config, number_format), number_format),
    }


def detectors(
    config: RealNetConfig, jobs: Sequence[DetectorData], process: Process, *, resume: bool = True
) -> dict[str, object]:
    """Return the plan of detector training, as :func:`diffusion`; loads the backbone, which checks its weights."""
    number_format = precision.planned(config.runtime.precision, process.device)
    model = build_detector(config, only_backbone=True)
    trainable = _count([*model.recon.parameters(), *model.rrs.parameters()])
    frozen = _count(model.backbone.parameters())
    levels = ", ".join(f"{level.name} {level.channels}@{level.stride}" for level in model.backbone.levels)
    steps = _steps(config, {job.class_name: len(job.train) for job in jobs}, process)
    identity = cache(model.backbone.identity)

    def begins(job: DetectorData) -> int:
        last = paths.output(job.dataset, "realnet", "checkpoints", job.class_name) / paths.LAST
        return state.first_step(config, job.train, process, last, lambda: job.subject(config, identity()))

    return {
        "classes": ", ".join(f"{j.class_name} ({_numbers(j)})" for j in jobs),
        "backbone": f"{config.backbone.name}: {levels} (channels@stride), for images of {model.backbone.statistics}",
        "parameters": f"{trainable / 1e6:.1f} M trained, {frozen / 1e6:.1f} M frozen",
        **steps,
        **_beginning([begins(job) if resume else 0 for job in jobs]),
        "memory": _memory(rehearsal.detector_training(model, config, number_format), number_format),
    }


def evaluation(
    config: RealNetConfig, dataset: OpenDataset, chosen: Mapping[str, Mapping[Protocol, Path]], process: Process
) -> dict[str, object]:
    """Return the plan of an evaluation; reads the checkpoints, and the backbone's weights of the first.

    Raises:
        UserError: where a checkpoint or the images of a class cannot be used.
    """
    require_sound(dataset, list(chosen))
    facts: dict[str, object] = {}
    numbers = {name: len(dataset.index(name, write=False).test) for name in chosen}
    detector: Detector | None = None
    for name, checkpoints in chosen.items():
        for path in checkpoints.values():
            if detector is None:
                detector = Detector.load(path, device="meta", config=config, dataset=dataset.name, class_name=name)
            else:
                require_fit(path, config, dataset=dataset.name, class_name=name)
        facts[f"class {name}"] = f"{numbers[name]} test images by {', '.join(map(str, checkpoints.values()))}"
    assert detector is not None
    height, width = detector.config.image_size
    facts["memory"] = _detection_memory(detector, config.evaluation.batch_size, process)
    facts["memory of maps and masks"] = f"{_gigabytes(max(numbers.values()) * height * width * MAP_BYTES)} beside it"
    return facts


def prediction(detector: Detector, source: str, num_files: int, output: Path, process: Process) -> dict[str, object]:
    """Return the plan of a prediction; the detector is of no use afterwards."""
    return {
        "checkpoint": source,
        "thresholds": detector.calibration or "none stored: no verdicts without --threshold",
        "images": num_files,
        "writes": str(output),
        "memory": _detection_memory(detector, 1, process),
    }


def _detection_memory(detector: Detector, batch: int, process: Process) -> str:
    number_format = precision.planned(detector.config.runtime.precision, process.device)
    return _memory(rehearsal.detection(detector.model, detector.config.image_size, batch, number_format), number_format)


def _training_facts(
    config: DiffusionConfig | ClassifierConfig,
    data: NormalImages,
    process: Process,
    model: nn.Module,
    *,
    stage: Literal["diffusion", "classifier"],
    new_heads: Sequence[str],
    resume: bool,
) -> dict[str, object]:
    """Return the facts of a training on normal images; ``model`` is on the meta device."""
    steps = _steps(config, {data.dataset: len(data.entries)}, process)
    last = paths.output(data.dataset, stage, "checkpoints") / paths.LAST
    step = state.first_step(config, data.entries, process, last, lambda: data.subject(stage)) if resume else 0
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
    return {"begins": ", ".join(f"goes on from step {step}" if step else "anew" for step in steps)}


def _numbers(job: DetectorData) -> str:
    held_out = f", {len(job.held_out)} held out" if job.held_out else ""
    return f"{len(job.train)} train{held_out}, {len(job.test)} test"


def _steps(config: TrainingConfig, numbers: Mapping[str, int], process: Process) -> dict[str, object]:
    require_batches(numbers, config.train, process.world_size)
    batch = config.train.batch_size * config.train.accumulation * process.world_size
    steps = [config.train.num_steps or config.train.num_epochs * (number // batch) for number in numbers.values()]
    return {"batch": f"{batch} a step, by {process.world_size} processes", "steps": ", ".join(map(str, steps))}


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _memory(number: int, number_format: Precision) -> str:
    where = number_format.device.type
    kept = "; freed memory that is kept can add a third" if where == "cpu" else ""
    return f"{_gigabytes(number)} at the peak of a step, on {where} in {number_format.name}{kept}"


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB"

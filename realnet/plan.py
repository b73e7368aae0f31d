"""``--dry-run``: what a command would do, and the memory it would need, without doing it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from realnet import checkpoint, precision, rehearsal
from realnet.config import ClassifierConfig, DiffusionConfig, RealNetConfig, SampleConfig, Section, TrainingConfig, dump
from realnet.data.check import require_sound
from realnet.data.registry import OpenDataset
from realnet.detector import Detector
from realnet.errors import UserError
from realnet.networks import build_classifier, build_detector, build_diffusion, build_unet
from realnet.precision import Precision
from realnet.reporting.results import Protocol
from realnet.sampling import Sampler
from realnet.training.batches import require_batches
from realnet.training.detector import DetectorData
from realnet.training.diffusion import NormalImages
from realnet.training.health import verdict

MAP_BYTES = 4 + 1  # a pixel of an anomaly map, and of its mask


def show(config: Section, facts: Mapping[str, object]) -> None:
    """Print the resolved config and the plan."""
    print(dump(config))
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def diffusion(config: DiffusionConfig, data: NormalImages, *, device: str | None = None) -> dict[str, object]:
    """Return the plan of diffusion training on a device, which need not be here; None: the best that is."""
    check_exists(config.pretrained, "pretrained")
    build_diffusion(config.process, config.validation.respacing)
    number_format = precision.planned(config.runtime.precision, device)
    with torch.device("meta"):
        parameters = _count(build_unet(config, len(data.classes)).parameters())
    need = rehearsal.diffusion_training(config, len(data.classes), number_format)
    return {**_training_facts(config, data, parameters), "memory": _memory(need, number_format)}


def classifier(config: ClassifierConfig, data: NormalImages, *, device: str | None = None) -> dict[str, object]:
    """Return the plan of classifier training; ``device`` as of :func:`diffusion`."""
    check_exists(config.pretrained, "pretrained")
    number_format = precision.planned(config.runtime.precision, device)
    with torch.device("meta"):
        parameters = _count(build_classifier(config, len(data.classes)).parameters())
    need = rehearsal.classifier_training(config, len(data.classes), number_format)
    return {**_training_facts(config, data, parameters), "memory": _memory(need, number_format)}


def sampling(
    config: SampleConfig, sampler: Sampler, classes: Sequence[str], root: Path, *, device: str | None = None
) -> dict[str, object]:
    """Return the plan of sampling; the sampler is of no use afterwards. ``device`` as of :func:`diffusion`."""
    number_format = precision.planned(config.runtime.precision, device)
    return {
        "checkpoint": sampler.source,
        "its model is": verdict(sampler.health),
        "guidance": f"scale {sampler.guidance.scale}" if sampler.guidance else "none",
        "images": f"{config.num_samples} for each of {', '.join(classes)}, {sampler.diffusion.num_steps} steps each",
        "size": "x".join(map(str, sampler.image_size)),
        "writes": str(root),
        "memory": _memory(rehearsal.sampling(sampler, config, number_format), number_format),
    }


def detectors(config: RealNetConfig, jobs: Sequence[DetectorData], *, device: str | None = None) -> dict[str, object]:
    """Return the plan of detector training; loads the backbone, which checks its weights.

    ``device`` as of :func:`diffusion`.
    """
    number_format = precision.planned(config.runtime.precision, device)
    model = build_detector(config)
    trainable = _count([*model.recon.parameters(), *model.rrs.parameters()])
    frozen = _count(model.backbone.parameters())
    levels = ", ".join(f"{level.name} {level.channels}@{level.stride}" for level in model.backbone.levels)
    return {
        "classes": ", ".join(f"{j.class_name} ({_numbers(j)})" for j in jobs),
        "backbone": f"{config.backbone.name}: {levels} (channels@stride)",
        "parameters": f"{trainable / 1e6:.1f} M trained, {frozen / 1e6:.1f} M frozen",
        **_steps(config, {job.class_name: len(job.train) for job in jobs}),
        "memory": _memory(rehearsal.detector_training(model, config, number_format), number_format),
    }


def evaluation(
    config: RealNetConfig,
    dataset: OpenDataset,
    chosen: Mapping[str, Mapping[Protocol, Path]],
    *,
    device: str | None = None,
) -> dict[str, object]:
    """Return the plan of an evaluation; reads the checkpoints, which checks what they are of.

    The memory is that of the config's detector. ``device`` as of :func:`diffusion`.

    Raises:
        UserError: where a checkpoint or the images of a class cannot be used.
    """
    require_sound(dataset, list(chosen))
    facts: dict[str, object] = {}
    numbers = {name: len(dataset.index(name, write=False).test) for name in chosen}
    for name, checkpoints in chosen.items():
        for path in checkpoints.values():
            checkpoint.load(path, kind="realnet", dataset=dataset.name, class_name=name)
        facts[f"class {name}"] = f"{numbers[name]} test images by {', '.join(map(str, checkpoints.values()))}"
    height, width = config.image_size
    number_format = precision.planned(config.runtime.precision, device)
    with torch.device("meta"):
        model = build_detector(config, backbone_weights="none")
    need = rehearsal.detection(model, config.image_size, config.evaluation.batch_size, number_format)
    facts["memory"] = _memory(need, number_format)
    facts["memory of maps and masks"] = f"{_gigabytes(max(numbers.values()) * height * width * MAP_BYTES)} beside it"
    return facts


def prediction(
    detector: Detector, source: str, num_files: int, output: Path, *, device: str | None = None
) -> dict[str, object]:
    """Return the plan of a prediction; the detector is of no use afterwards. ``device`` as of :func:`diffusion`."""
    number_format = precision.planned(detector.config.runtime.precision, device)
    need = rehearsal.detection(detector.model, detector.config.image_size, 1, number_format)
    return {
        "checkpoint": source,
        "thresholds": detector.calibration or "none stored: no verdicts without --threshold",
        "images": num_files,
        "writes": str(output),
        "memory": _memory(need, number_format),
    }


def check_exists(path: str | None, key: str) -> None:
    """Raise UserError where a file that a config names is absent."""
    if path is not None and not Path(path).is_file():
        raise UserError(f"{key}: {path} does not exist; README.md says where to get it, or set it to null")


def _training_facts(config: TrainingConfig, data: NormalImages, parameters: int) -> dict[str, object]:
    return {
        "classes": ", ".join(data.classes),
        "images": len(data.entries),
        "parameters": f"{parameters / 1e6:.1f} M",
        **_steps(config, {data.dataset: len(data.entries)}),
    }


def _numbers(job: DetectorData) -> str:
    held_out = f", {len(job.held_out)} held out" if job.held_out else ""
    return f"{len(job.train)} train{held_out}, {len(job.test)} test"


def _steps(config: TrainingConfig, numbers: Mapping[str, int]) -> dict[str, object]:
    require_batches(numbers, config.train)
    batch = config.train.batch_size * config.train.accumulation
    steps = [config.train.num_steps or config.train.num_epochs * (number // batch) for number in numbers.values()]
    return {"batch": f"{batch} a step and process", "steps": ", ".join(map(str, steps))}


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _memory(number: int, number_format: Precision) -> str:
    where = number_format.device.type
    kept = "; freed memory that is kept can add a third" if where == "cpu" else ""
    return f"{_gigabytes(number)} at the peak of a step, on {where} in {number_format.name}{kept}"


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB"

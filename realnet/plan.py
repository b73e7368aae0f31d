"""``--dry-run``: what a command would do, and the memory it would need, without doing it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from realnet import checkpoint
from realnet.config import ClassifierConfig, DiffusionConfig, RealNetConfig, SampleConfig, Section, TrainingConfig, dump
from realnet.data.check import require_sound
from realnet.data.registry import OpenDataset
from realnet.detector import Detector
from realnet.errors import UserError
from realnet.networks import build_classifier, build_detector, build_unet
from realnet.reporting.results import Protocol
from realnet.sampling import Sampler
from realnet.training.detector import DetectorData
from realnet.training.diffusion import NormalImages

BYTES = 4  # of a float32
ADAM_STATES = 4  # weights, gradients, and Adam's two moments


def show(config: Section, facts: Mapping[str, object]) -> None:
    """Print the resolved config and the plan."""
    print(dump(config))
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def diffusion(config: DiffusionConfig, data: NormalImages) -> dict[str, object]:
    """Return the plan of diffusion training."""
    check_exists(config.pretrained, "pretrained")
    with torch.device("meta"):
        model = build_unet(config, len(data.classes))
    batch = config.train.batch_size
    inputs = (_images(batch, config.image_size), _longs(batch), _longs(batch))
    activations = saved_bytes(lambda: model(*inputs).square().mean())
    copies = ADAM_STATES + 1  # the average of the weights
    return _training_facts(config, data, model, copies, activations)


def classifier(config: ClassifierConfig, data: NormalImages) -> dict[str, object]:
    """Return the plan of classifier training."""
    check_exists(config.pretrained, "pretrained")
    with torch.device("meta"):
        model = build_classifier(config, len(data.classes))
    batch = config.train.batch_size
    inputs = (_images(batch, config.image_size), _longs(batch))
    activations = saved_bytes(lambda: model(*inputs).square().mean())
    return _training_facts(config, data, model, ADAM_STATES, activations)


def sampling(config: SampleConfig, sampler: Sampler, classes: Sequence[str], root: Path) -> dict[str, object]:
    """Return the plan of sampling."""
    networks = [sampler.unet, *([sampler.guidance.classifier] if sampler.guidance else [])]
    weights = sum(_count(n.parameters()) for n in networks if isinstance(n, nn.Module))
    return {
        "checkpoint": sampler.source,
        "guidance": f"scale {sampler.guidance.scale}" if sampler.guidance else "none",
        "images": f"{config.num_samples} for each of {', '.join(classes)}, {sampler.diffusion.num_steps} steps each",
        "size": "x".join(map(str, sampler.image_size)),
        "writes": str(root),
        "weights in memory": _gigabytes(weights * BYTES),
    }


def detectors(config: RealNetConfig, jobs: Sequence[DetectorData]) -> dict[str, object]:
    """Return the plan of detector training; loads the backbone, which checks its weights."""
    model = build_detector(config).to("meta").train()
    batch = config.train.batch_size
    size = config.image_size
    selected = {b.name: torch.empty(batch, b.num_channels, *b.size(size), device="meta") for b in model.afs.blocks}
    activations = saved_bytes(lambda: model.detect(selected, size).logits.square().mean())
    trainable = _count([*model.recon.parameters(), *model.rrs.parameters()])
    frozen = _count(model.backbone.parameters())
    levels = ", ".join(f"{level.name} {level.channels}@{level.stride}" for level in model.backbone.levels)
    return {
        "classes": ", ".join(f"{j.class_name} ({_numbers(j)})" for j in jobs),
        "backbone": f"{config.backbone.name}: {levels} (channels@stride)",
        "parameters": f"{trainable / 1e6:.1f} M trained, {frozen / 1e6:.1f} M frozen",
        **_steps(config, [len(job.train) for job in jobs]),
        "memory": _gigabytes(BYTES * (ADAM_STATES * trainable + frozen) + activations) + ", about, in fp32",
    }


def evaluation(
    config: RealNetConfig, dataset: OpenDataset, chosen: Mapping[str, Mapping[Protocol, Path]]
) -> dict[str, object]:
    """Return the plan of an evaluation; reads the checkpoints, which checks what they are of.

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
    facts["memory of anomaly maps and masks"] = _gigabytes(max(numbers.values()) * height * width * (BYTES + 1))
    return facts


def prediction(detector: Detector, source: str, num_files: int, output: Path) -> dict[str, object]:
    """Return the plan of a prediction."""
    weights = _count(detector.model.parameters())
    return {
        "checkpoint": source,
        "thresholds": detector.calibration or "none stored: no verdicts without --threshold",
        "images": num_files,
        "writes": str(output),
        "weights in memory": _gigabytes(weights * BYTES),
    }


def check_exists(path: str | None, key: str) -> None:
    """Raise UserError where a file that a config names is absent."""
    if path is not None and not Path(path).is_file():
        raise UserError(f"{key}: {path} does not exist; README.md says where to get it, or set it to null")


def saved_bytes(loss: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps between forward and backward, found on the meta device."""
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # keeps storages alive, so that no two share an identity

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss()
    return sum(storages.values())


def _training_facts(
    config: TrainingConfig, data: NormalImages, model: nn.Module, copies: int, activations: int
) -> dict[str, object]:
    parameters = _count(model.parameters())
    return {
        "classes": ", ".join(data.classes),
        "images": len(data.entries),
        "parameters": f"{parameters / 1e6:.1f} M",
        **_steps(config, [len(data.entries)]),
        "memory": _gigabytes(copies * parameters * BYTES + activations) + ", about, in fp32",
    }


def _numbers(job: DetectorData) -> str:
    held_out = f", {len(job.held_out)} held out" if job.held_out else ""
    return f"{len(job.train)} train{held_out}, {len(job.test)} test"


def _steps(config: TrainingConfig, numbers: Sequence[int]) -> dict[str, object]:
    batch = config.train.batch_size * config.train.accumulation
    steps = [config.train.num_steps or config.train.num_epochs * max(1, number // batch) for number in numbers]
    return {"batch": f"{batch} a step and process", "steps": ", ".join(map(str, steps))}


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB"


def _images(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.empty(batch, 3, *size, device="meta")


def _longs(batch: int) -> Tensor:
    return torch.empty(batch, dtype=torch.long, device="meta")

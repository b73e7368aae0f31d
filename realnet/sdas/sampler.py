"""SDAS: strength-controllable diffusion anomaly synthesis (paper, Eq. 4 to 6; docs/method.md, SDAS).

Each image is reproducible independently of the others.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, TypeVar

import torch
from torch import Tensor

from guided_diffusion.gaussian import GaussianDiffusion
from guided_diffusion.guidance import ClassifierGuidance
from guided_diffusion.multistep import dpm_sample_loop
from guided_diffusion.sampling import ddim_sample_loop, p_sample_loop
from realnet import config
from realnet.config import ClassifierConfig, DiffusionConfig, SampleConfig, paths
from realnet.data.images import Image, write_whole_image
from realnet.errors import Stopped, UserError
from realnet.models import checkpoint
from realnet.models.build import build_classifier, build_diffusion, build_unet
from realnet.runtime import distributed
from realnet.runtime.devices import send
from realnet.runtime.distributed import World
from realnet.runtime.lock import one_run
from realnet.runtime.placement import make_ready
from realnet.runtime.precision import Precision
from realnet.runtime.progress import bar
from realnet.sdas import image_folder
from realnet.sdas.image_folder import Draw
from realnet.sdas.scoring import Scorer

logger = logging.getLogger("realnet")
ConfigT = TypeVar("ConfigT", DiffusionConfig, ClassifierConfig)


@dataclass(frozen=True)
class Sampler:
    """The networks that sample a dataset's classes (docs/method.md, SDAS).

    Attributes:
        diffusion: the respaced process.
        unet: in eval mode, on the device.
        guidance: the classifier to steer by; None samples without guidance.
        classes: class names in the order of the networks' class numbers.
        image_size: (H, W).
        source: names the checkpoints, with the step and checksum of each.
        health: the checkpoint's record of validations; None if it has none, as published ones.
        has_schedule: whether the learning rate of its training fell to the last step, after which none can follow.
    """

    diffusion: GaussianDiffusion
    unet: torch.nn.Module
    guidance: ClassifierGuidance | None
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    source: str
    health: Sequence[dict[str, float]] | None
    has_schedule: bool


class _Steering(TypedDict):
    """What leads every sampler: class numbers and strengths (B,), and the classifier, if there is one."""

    y: Tensor
    anomaly_strength: Tensor
    guidance: ClassifierGuidance | None


def load_sampler(dataset: str, settings: SampleConfig, classes: Sequence[str], number_format: Precision) -> Sampler:
    """Load the diffusion model, and the classifier if one exists and the settings ask for guidance.

    Raises:
        UserError: if the diffusion model is missing, or a checkpoint does not fit the dataset.
    """
    path = (
        Path(settings.diffusion)
        if settings.diffusion
        else paths.output(dataset, "diffusion", "checkpoints") / paths.LAST
    )
    weights = checkpoint.load(path, kind="diffusion", dataset=dataset, mapped=number_format.device.type == "meta")
    described = _config_of(weights, DiffusionConfig, dataset)
    _check_classes(weights, classes, "label_emb.weight", path)
    with torch.device("meta"):  # it takes the weights that were read, without a copy
        unet = build_unet(described, len(classes))
    checkpoint.load_into(unet, weights.state_dict, str(path))
    guided = _load_guidance(dataset, settings, classes, described, number_format) if settings.guidance else None
    guidance, guide = guided or (None, "none")
    make_ready(unet.requires_grad_(False), number_format, settings.runtime)
    return Sampler(
        diffusion=build_diffusion(described.process, settings.respacing),
        unet=unet,
        guidance=guidance,
        classes=tuple(classes),
        image_size=described.image_size,
        source=f"{_named(path, weights)}; guidance: {guide}",
        health=weights.facts.get("health"),
        has_schedule=described.optimiser.schedule != "constant",
    )


def sample_class(
    sampler: Sampler,
    class_name: str,
    settings: SampleConfig,
    folder: Path,
    world: World,
    *,
    scorer: Scorer | None = None,
    resume: bool = True,
) -> int:
    """Write a class's images, a manifest and the settings; return how many were new (docs/method.md, SDAS).

    An image is written completely or not at all, so an interrupted run continues with the missing ones. Images beyond
    the number asked for stay in the folder, but not in the manifest, which training reads. The processes share the
    images. A scorer adds the images' scores to the manifest.

    Raises:
        UserError: if another run holds the folder, or if it holds images made with other settings or by others.
        Stopped: after a signal; the current batch is written.
    """
    with one_run(folder, world):
        settings = settings.of_class(class_name)
        return _sample_missing(sampler, class_name, settings, folder, world, scorer=scorer, resume=resume)


def _sample_missing(
    sampler: Sampler,
    class_name: str,
    settings: SampleConfig,
    folder: Path,
    world: World,
    *,
    scorer: Scorer | None,
    resume: bool,
) -> int:
    if resume:
        settings = image_folder.as_begun(folder, sampler.source, settings, world.precision)
    wanted = image_folder.draws(class_name, settings)
    if world.is_main:
        description = image_folder.describe(sampler.source, settings, world.precision)
        image_folder.prepare(folder, description, wanted, resume=resume)
    distributed.barrier()
    missing = image_folder.missing(folder, wanted)
    mine = missing[world.rank :: world.size]
    if missing and world.is_main:
        (folder / paths.SDAS_MANIFEST).unlink(missing_ok=True)  # until all images are there
    distributed.barrier()  # every process has listed the missing images before any process writes
    _write_images(sampler, mine, settings, folder, world)
    distributed.meet()
    if distributed.any_process(world.stop.asked):
        left = len(image_folder.missing(folder, wanted))
        again = "run the same command again to continue"
        logger.info("%s: stopped, %d of %d images missing; %s", class_name, left, len(wanted), again)
        raise Stopped
    quality = scorer.score(class_name, folder, [draw.file for draw in wanted]) if scorer else None
    if world.is_main:
        image_folder.write_manifest(folder, wanted, sampler.source, quality.scores if quality else None)
    return len(missing)


def _write_images(
    sampler: Sampler,
    mine: Sequence[Draw],
    settings: SampleConfig,
    folder: Path,
    world: World,
) -> None:
    """Sample batch by batch until done or until a signal; write each batch while the next is sampled."""
    progress = bar(total=len(mine), description=f"{folder.name}: SDAS", is_main=world.is_main)
    with ThreadPoolExecutor(max_workers=2) as writers, progress:
        written: list[Future] = []
        size = min(settings.batch_size, settings.num_samples)
        for start in range(0, len(mine), size):
            if world.stop.asked:
                break
            batch = mine[start : start + size]
            images = sample_batch(sampler, _padded(batch, size), settings, world.precision)[: len(batch)]
            _finish(written)
            files = (folder / draw.file for draw in batch)
            written = [writers.submit(write_whole_image, *each) for each in zip(files, images, strict=True)]
            progress.update(len(batch))
        _finish(written)


def _padded(batch: Sequence[Draw], size: int) -> Sequence[Draw]:
    """Fill up the last batch: rounding depends on the batch size, and a continued run must make the same files."""
    return [*batch, *[batch[-1]] * (size - len(batch))]


def sample_batch(
    sampler: Sampler, batch: Sequence[Draw], settings: SampleConfig, number_format: Precision
) -> list[Image]:
    """Return the images of several draws, uint8 RGB (H, W, 3).

    Images do not depend on each other. Only the size of the batch can change a value by one grey level, by rounding.
    """
    device = number_format.device
    sources = [draw.noise((3, *sampler.image_size)) for draw in batch]

    def noise(_step: int) -> Tensor:
        return send(torch.stack([draw() for draw in sources]), device)

    predict, guidance = number_format.running(sampler.unet), sampler.guidance
    if guidance:
        guidance = replace(guidance, classifier=number_format.running(guidance.classifier))
    y = torch.tensor([sampler.classes.index(draw.class_name) for draw in batch], device=device)
    strength = torch.tensor([draw.strength for draw in batch], device=device)
    start = noise(-1)
    steering = _Steering(y=y, anomaly_strength=strength, guidance=guidance)
    match settings.sampler:
        case "ancestral":
            x = p_sample_loop(sampler.diffusion, predict, start, noise, **steering)
        case "ddim":
            x = ddim_sample_loop(sampler.diffusion, predict, start, noise, eta=settings.eta, **steering)
        case "dpm":
            x = dpm_sample_loop(sampler.diffusion, predict, start, noise, **steering)
    if not x.isfinite().all():
        raise UserError("the diffusion model gives NaN: its weights diverged, or try runtime.precision=fp32")
    return to_pixels(x)


def to_pixels(x: Tensor) -> list[Image]:
    """Return images (B, 3, H, W) in [-1, 1] as clip((x+1)·127.5, 0, 255), uint8 RGB (H, W, 3) each."""
    pixels = ((x.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _load_guidance(
    dataset: str,
    settings: SampleConfig,
    classes: Sequence[str],
    described: DiffusionConfig,
    number_format: Precision,
) -> tuple[ClassifierGuidance, str] | None:
    default = paths.output(dataset, "classifier", "checkpoints") / paths.LAST
    path = Path(settings.classifier) if settings.classifier else default
    if len(classes) < 2 or (not settings.classifier and not path.exists()):
        logger.info("no guidance: %s", "one class needs none" if len(classes) < 2 else f"{path} does not exist")
        return None
    weights = checkpoint.load(path, kind="classifier", dataset=dataset, mapped=number_format.device.type == "meta")
    _check_classes(weights, classes, "out.2.c_proj.weight", path)
    classifier_config = _config_of(weights, ClassifierConfig, dataset)
    if classifier_config.image_size != described.image_size:
        raise UserError(
            f"{path} is for images of {classifier_config.image_size}, but the diffusion model is for "
            f"{described.image_size}; train both at the same image_size, or sample with --no-guidance"
        )
    with torch.device("meta"):
        classifier = build_classifier(classifier_config, len(classes))
    checkpoint.load_into(classifier, weights.state_dict, str(path))
    make_ready(classifier, number_format, settings.runtime, differentiable=True)
    return ClassifierGuidance(classifier, settings.guidance_scale), _named(path, weights)


def _named(path: Path, weights: checkpoint.Checkpoint) -> str:
    """Name a checkpoint by its file, step and checksum; only the checksum tells published files apart."""
    digest = checkpoint.checksum(weights.state_dict)[:16]
    return f"{path.name}, step {weights.facts.get('step', 'unknown')}, SHA-256 {digest}"


def _config_of(weights: checkpoint.Checkpoint, model: type[ConfigT], dataset: str) -> ConfigT:
    """Return the config in a checkpoint; a published one has none, so return the dataset's."""
    if weights.config is not None:
        return model.model_validate(weights.config)
    return config.load(model, paths.config_file(dataset, weights.kind))


def _check_classes(weights: checkpoint.Checkpoint, classes: Sequence[str], head: str, path: Path) -> None:
    if weights.classes is not None and list(weights.classes) != list(classes):
        raise UserError(
            f"{path} was trained on the classes {', '.join(weights.classes)}, but the dataset has "
            f"{', '.join(classes)}; train it again, or restore the dataset's classes"
        )
    number = len(weights.state_dict[head])
    if number != len(classes):
        raise UserError(f"{path} has {number} classes, but the dataset has {len(classes)}; give the dataset's own file")


def _finish(written: Sequence[Future]) -> None:
    """Wait until images are written; raise the error of a failed one, for example a full disk."""
    for future in written:
        future.result()

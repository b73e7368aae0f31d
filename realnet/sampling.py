"""SDAS: strength-controllable diffusion anomaly synthesis (paper, Eq. 4 to 6), image by image reproducible."""

import csv
import logging
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from guided_diffusion.gaussian import GaussianDiffusion
from guided_diffusion.sampling import ClassifierGuidance, ddim_sample_loop, p_sample_loop
from realnet import checkpoint, config, distributed, paths, precision
from realnet.config import ClassifierConfig, DiffusionConfig, SampleConfig
from realnet.data.images import Image, write_image
from realnet.distributed import Process
from realnet.errors import Stopped, UserError
from realnet.networks import build_classifier, build_diffusion, build_unet, compile_networks, place
from realnet.progress import bar
from realnet.stopping import StopSignals

logger = logging.getLogger("realnet")
ConfigT = TypeVar("ConfigT", DiffusionConfig, ClassifierConfig)

MANIFEST, SETTINGS = "manifest.csv", "settings.yaml"


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


@dataclass(frozen=True)
class Sampler:
    """The networks that sample a dataset's classes.

    Attributes:
        diffusion: the respaced process.
        unet: in eval mode, on the device.
        guidance: None to sample without.
        classes: in the order of the networks' class numbers.
        image_size: (H, W).
        source: names the diffusion checkpoint and its step.
        health: the checkpoint's record of validations.
    """

    diffusion: GaussianDiffusion
    unet: torch.nn.Module
    guidance: ClassifierGuidance | None
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    source: str
    health: Sequence[dict[str, float]]


def load_sampler(dataset: str, settings: SampleConfig, classes: Sequence[str], device: torch.device) -> Sampler:
    """Load the diffusion model, and the classifier where one is trained and wanted.

    Raises:
        UserError: where the diffusion model is absent, or a checkpoint is of other classes.
    """
    path = (
        Path(settings.diffusion)
        if settings.diffusion
        else paths.output(dataset, "diffusion", "checkpoints") / paths.LAST
    )
    weights = checkpoint.load(path, kind="diffusion", dataset=dataset)
    described = _config_of(weights, DiffusionConfig, dataset)
    _check_classes(weights, classes, "label_emb.weight", path)
    with torch.device("meta"):  # the weights are the file's own pages, not a copy of them
        unet = build_unet(described, len(classes))
    checkpoint.load_into(unet, weights.state_dict, str(path))
    guidance = _load_guidance(dataset, settings, classes, described, device) if settings.guidance else None
    _make_ready(unet, settings, device)
    return Sampler(
        diffusion=build_diffusion(described.process, settings.respacing),
        unet=unet,
        guidance=guidance,
        classes=tuple(classes),
        image_size=described.image_size,
        source=f"{path.name}, step {weights.facts.get('step', 'unknown')}",
        health=weights.facts.get("health", []),
    )


def draws(class_name: str, settings: SampleConfig) -> list[Draw]:
    """Return what makes each of a class's images, from (seed, class, index) alone."""
    made = []
    for index in range(settings.num_samples):
        sequence = np.random.SeedSequence((settings.seed, zlib.crc32(class_name.encode()), index))
        seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        strength = np.random.default_rng(seed).uniform(settings.strength.low, settings.strength.high)
        made.append(Draw(f"{index:05d}.{settings.format}", class_name, seed, float(strength)))
    return made


def sample_class(
    sampler: Sampler, class_name: str, settings: SampleConfig, folder: Path, process: Process, *, resume: bool = True
) -> int:
    """Write a class's images, a manifest and the settings; return how many were new.

    An image is written whole or not at all, so a run that was cut off goes on with the first one that is missing.
    Several processes share the images.

    Raises:
        UserError: where the folder holds images that were made with other settings.
        Stopped: after a signal; the batch at hand is written.
    """
    wanted = draws(class_name, settings)
    if process.is_main:
        _prepare(folder, _describe(sampler, settings), resume)
    distributed.barrier()
    missing = [draw for draw in wanted if not (folder / draw.file).exists()]
    mine = missing[process.rank :: process.world_size]
    distributed.barrier()  # all have looked before any writes
    with StopSignals() as stop:
        _write_images(sampler, mine, settings, folder, process, stop)
    if distributed.any_process(stop.asked):
        left = sum(not (folder / draw.file).exists() for draw in wanted)
        logger.info("%s: stopped with %d of %d images to go; the same command goes on", class_name, left, len(wanted))
        raise Stopped
    if process.is_main:
        _write_manifest(folder, wanted, sampler.source)
    return len(missing)


def _write_images(
    sampler: Sampler, mine: Sequence[Draw], settings: SampleConfig, folder: Path, process: Process, stop: StopSignals
) -> None:
    """Sample batch by batch until all is done or a signal comes; a batch is written while the next is sampled."""
    number_format = precision.resolve(settings.runtime.precision, process.device)
    progress = bar(total=len(mine), description=f"{folder.name}: SDAS", is_main=process.is_main)
    with ThreadPoolExecutor(max_workers=2) as writers, progress:
        written: list[Future] = []
        for start in range(0, len(mine), settings.batch_size):
            if stop.asked:
                break
            batch = mine[start : start + settings.batch_size]
            images = sample_batch(sampler, batch, settings, number_format)
            _finish(written)
            files = (folder / draw.file for draw in batch)
            written = [writers.submit(_write_whole, *each) for each in zip(files, images, strict=True)]
            progress.update(len(batch))
        _finish(written)


def sample_batch(
    sampler: Sampler, batch: Sequence[Draw], settings: SampleConfig, number_format: precision.Precision
) -> list[Image]:
    """Return the images of several draws, uint8 RGB (H, W, 3); none depends on the others."""
    device = number_format.device
    generators = [torch.Generator().manual_seed(draw.seed) for draw in batch]

    def noise(_step: int) -> Tensor:
        drawn = [torch.randn(3, *sampler.image_size, generator=generator) for generator in generators]
        return torch.stack(drawn).to(device, non_blocking=True)

    predict, guidance = number_format.running(sampler.unet), sampler.guidance
    if guidance:
        guidance = replace(guidance, classifier=number_format.running(guidance.classifier))
    y = torch.tensor([sampler.classes.index(draw.class_name) for draw in batch], device=device)
    strength = torch.tensor([draw.strength for draw in batch], device=device)
    start = noise(-1)
    if settings.sampler == "ddim":
        x = ddim_sample_loop(
            sampler.diffusion,
            predict,
            start,
            noise,
            y=y,
            eta=settings.eta,
            anomaly_strength=strength,
            guidance=guidance,
        )
    else:
        x = p_sample_loop(sampler.diffusion, predict, start, noise, y=y, anomaly_strength=strength, guidance=guidance)
    return to_pixels(x)


def to_pixels(x: Tensor) -> list[Image]:
    """Return images (B, 3, H, W) in [-1, 1] as clip((x+1)·127.5, 0, 255), uint8 RGB (H, W, 3) each."""
    pixels = ((x.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _load_guidance(
    dataset: str, settings: SampleConfig, classes: Sequence[str], described: DiffusionConfig, device: torch.device
) -> ClassifierGuidance | None:
    default = paths.output(dataset, "classifier", "checkpoints") / paths.LAST
    path = Path(settings.classifier) if settings.classifier else default
    if len(classes) < 2 or (not settings.classifier and not path.exists()):
        logger.info("no guidance: %s", "one class needs none" if len(classes) < 2 else f"{path} does not exist")
        return None
    weights = checkpoint.load(path, kind="classifier", dataset=dataset)
    _check_classes(weights, classes, "out.2.c_proj.weight", path)
    classifier_config = _config_of(weights, ClassifierConfig, dataset)
    if classifier_config.image_size != described.image_size:
        raise UserError(
            f"{path} is for images of {classifier_config.image_size}, the diffusion model for {described.image_size}; "
            "train both at one image_size, or sample with --no-guidance"
        )
    with torch.device("meta"):
        classifier = build_classifier(classifier_config, len(classes))
    checkpoint.load_into(classifier, weights.state_dict, str(path))
    _make_ready(classifier, settings, device)
    return ClassifierGuidance(classifier, settings.guidance_scale)


def _make_ready(network: nn.Module, settings: SampleConfig, device: torch.device) -> None:
    place(network, device, settings.runtime).eval().requires_grad_(False)
    precision.resolve(settings.runtime.precision, device).cast(network)
    compile_networks(settings.runtime, network)


def _config_of(weights: checkpoint.Checkpoint, model: type[ConfigT], dataset: str) -> ConfigT:
    """Return the config that a checkpoint brings, or for a published one the dataset's own."""
    if weights.config is not None:
        return model.model_validate(weights.config)
    return config.load(model, paths.experiment(dataset) / f"{weights.kind}.yaml")


def _check_classes(weights: checkpoint.Checkpoint, classes: Sequence[str], head: str, path: Path) -> None:
    if weights.classes is not None and list(weights.classes) != list(classes):
        raise UserError(
            f"{path} was trained on the classes {', '.join(weights.classes)}, the dataset has {', '.join(classes)}; "
            "train it again, or restore the dataset's classes"
        )
    number = len(weights.state_dict[head])
    if number != len(classes):
        raise UserError(f"{path} knows {number} classes, the dataset has {len(classes)}; give the dataset's own file")


def _describe(sampler: Sampler, settings: SampleConfig) -> str:
    """Return the settings that images depend on, as YAML."""
    kept = settings.model_copy(update={"num_samples": 1, "batch_size": 1, "runtime": config.RuntimeConfig()})
    guided = "with guidance" if sampler.guidance else "without guidance"
    return f"# made from {sampler.source}, {guided}\n{config.dump(kept)}"


def _prepare(folder: Path, description: str, resume: bool) -> None:
    """Make the folder ready; refuse to mix images of other settings with new ones."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / SETTINGS
    if not resume:
        # the settings last: whoever is killed before leaves no images without the settings they were made with
        for file in [*folder.glob("[0-9]*.jpg"), *folder.glob("[0-9]*.png"), folder / MANIFEST, settings]:
            file.unlink(missing_ok=True)
    if settings.exists() and settings.read_text(encoding="utf-8") != description:
        raise UserError(
            f"{folder} holds images of other settings (see {settings}); --no-resume makes all anew in their place, "
            "--output writes elsewhere"
        )
    partial = folder / f".{SETTINGS}"
    partial.write_text(description, encoding="utf-8")
    partial.replace(settings)


def _write_whole(path: Path, image: Image) -> None:
    partial = path.with_name(f".{path.name}")
    write_image(partial, image)
    partial.replace(path)


def _finish(written: Sequence[Future]) -> None:
    """Wait for images that are being written; raise what went wrong, such as a full disk."""
    for future in written:
        future.result()


def _write_manifest(folder: Path, wanted: Sequence[Draw], source: str) -> None:
    partial = folder / f".{MANIFEST}"
    with partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "seed", "strength", "checkpoint"])
        rows.writerows([draw.file, draw.class_name, draw.seed, f"{draw.strength:.6f}", source] for draw in wanted)
    partial.replace(folder / MANIFEST)

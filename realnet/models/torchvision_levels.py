"""Find the feature levels of torchvision's models, which do not name them."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from realnet.models.levels import GROWTH, ImageSize, Output, Shape, output_of, shape_of


def hollow_torchvision(name: str) -> nn.Module:
    """Return a torchvision model without values where it can be built so, else with random ones."""
    from torchvision.models import get_model

    with warnings.catch_warnings():  # of initialisations to come
        warnings.simplefilter("ignore", FutureWarning)
        try:
            with torch.device("meta"):
                return get_model(name, weights=None).eval()
        except NotImplementedError:  # some compute while they are built
            return get_model(name, weights=None).eval()


def last_of_each_stride(model: nn.Module, image_size: ImageSize) -> dict[str, Output]:
    """Find the last module at each stride from 4 on, heads apart; finest first."""
    candidates = _candidates(model)
    first, larger = module_shapes(model, candidates, image_size), {}
    with suppress(Exception):  # made for one size
        larger = module_shapes(model, candidates, (image_size[0] + GROWTH, image_size[1] + GROWTH))
    found: dict[int, tuple[str, Output]] = {}
    for name, shape in first.items():
        if shape == larger.get(name):  # the pool before a head
            continue
        output = output_of(0, shape, larger.get(name), image_size)
        if output.stride >= 4 and min(output.sides) > 1:
            found[output.stride] = (name, output)
    return {name: output for _, (name, output) in sorted(found.items())}


def _candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that may give a level: those at the top and in the trunk, neither heads nor bare convolutions.

    A model's trunk is what it calls so.
    """
    children = dict(model.named_children())
    container = next((name for name in children if name in {"features", "layers", "trunk_output", "blocks"}), None)
    inner = {f"{container}.{n}": m for n, m in children.pop(container).named_children()} if container else {}
    outer = {name: module for name, module in children.items() if name not in {"fc", "classifier", "head", "heads"}}
    return {name: module for name, module in {**outer, **inner}.items() if not _is_head(module)}


def _is_head(module: nn.Module) -> bool:
    kernels = {m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)}
    return isinstance(module, nn.Conv2d) or (bool(kernels) and kernels <= {(1, 1)})


@torch.no_grad()
def module_shapes(model: nn.Module, modules: Mapping[str, nn.Module], image_size: ImageSize) -> dict[str, Shape]:
    """Run a model once and return the shapes of the maps that its modules give, in their order."""
    shapes: dict[str, Shape] = {}

    def record(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            shapes[name] = shape_of(output)

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: record(name, output))
        for name, module in modules.items()
    ]
    try:
        model(torch.zeros(1, 3, *image_size, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return shapes

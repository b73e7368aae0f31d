"""The frozen feature extractor: any timm model, or any torchvision model as ``torchvision/<name>``."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realnet.errors import UserError
from realnet.models import checkpoint

TORCHVISION = "torchvision/"


@dataclass(frozen=True)
class Level:
    """A feature level; ``layer1`` is the finest (method, section 3, Backbone)."""

    name: str
    channels: int
    stride: int


class Backbone(nn.Module):
    """Extract feature levels; frozen, in eval mode whatever the mode of the detector around it (method, section 3).

    Args:
        name: a timm model (``wide_resnet50_2.racm_in1k``) or ``torchvision/<name>``.
        weights: ``hub`` (the model's own, downloaded once), ``none`` (random, the same at each start), ``given``
            (left for a checkpoint that holds the backbone), or a file with the model's state dict.

    Raises:
        UserError: for an unknown model, and for weights that are absent or do not fit.
    """

    def __init__(self, name: str, weights: str = "hub") -> None:
        super().__init__()
        self.name, self.weights = name, weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            build = _torchvision_extractor if name.startswith(TORCHVISION) else _timm_extractor
            self.feature_extractor, self.levels = build(name.removeprefix(TORCHVISION), weights == "hub")
        if weights not in {"hub", "none", "given"}:
            _load_file(self.feature_extractor, Path(weights), name)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002 - torch's signature
        """Stay in eval mode."""
        return super().train(False)

    def level(self, name: str) -> Level:
        """Return a level by its name.

        Raises:
            UserError: where the model has no such level; names those it has.
        """
        for level in self.levels:
            if level.name == name:
                return level
        known = ", ".join(f"{level.name} ({level.channels} channels, stride {level.stride})" for level in self.levels)
        raise UserError(f"the backbone {self.name} has no level {name!r}; it has {known}")

    @torch.no_grad()
    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise UserError for (height, width) that the model does not take: some of timm's are made for one size."""
        made_for: Mapping[str, Any] = getattr(self.feature_extractor, "pretrained_cfg", {})
        height, width = made_for.get("input_size", (3, *image_size))[1:]
        if not made_for.get("fixed_input_size") or (height, width) == image_size:
            return
        try:  # some take others all the same
            self.feature_extractor(torch.zeros(1, 3, *image_size, device=next(self.parameters()).device))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(
                f"image_size {image_size[0]}x{image_size[1]}: the backbone {self.name} is made for {height}x{width} "
                f"({reason}); set image_size to that, or choose another backbone.name"
            ) from error

    def checksum(self) -> str:
        """Return a SHA-256 over the weights: which features a detector was trained on."""
        return checkpoint.checksum(self.feature_extractor.state_dict())

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map ImageNet-normalised images (B, 3, H, W) to the levels (B, channels, H/stride, W/stride), by name."""
        features = self.feature_extractor(image)
        values = features.values() if isinstance(features, Mapping) else features
        return {level.name: value for level, value in zip(self.levels, values, strict=True)}


def _timm_extractor(name: str, pretrained: bool) -> tuple[nn.Module, tuple[Level, ...]]:
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"timm has no model {name!r}; near names: {near}; torchvision's are torchvision/<name>")
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(name, features_only=True).feature_info
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"timm's {name} gives no feature levels ({reason}); choose another backbone.name") from error
    modules = info.module_name()
    # a stem that comes before a model's own `layer1` is no level of the method
    indices = [i for i, module in enumerate(modules) if "layer1" not in modules or module.startswith("layer")]
    with _named_downloads(name):
        model = timm.create_model(name, features_only=True, out_indices=indices, pretrained=pretrained)
    info = model.feature_info
    levels = enumerate(zip(info.channels(), info.reduction(), strict=True), start=1)
    return model, tuple(Level(f"layer{i}", channels, stride) for i, (channels, stride) in levels)


def _torchvision_extractor(name: str, pretrained: bool) -> tuple[nn.Module, tuple[Level, ...]]:
    from torchvision.models import get_model, list_models
    from torchvision.models.feature_extraction import create_feature_extractor

    if name not in list_models():
        raise UserError(f"torchvision has no model {name!r}; see torchvision.models.list_models()")
    with _named_downloads(f"{TORCHVISION}{name}"):
        model = get_model(name, weights="DEFAULT" if pretrained else None).eval()
    try:
        nodes = _torchvision_levels(model)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise UserError(f"torchvision/{name} takes no images of 256 pixels ({error}); choose another one") from error
    if not nodes:
        raise UserError(f"torchvision/{name} has no feature maps (B, C, H, W) at whole strides; choose another one")
    levels = tuple(Level(f"layer{i}", *shape) for i, shape in enumerate(nodes.values(), start=1))
    with warnings.catch_warnings():  # of modules that are there in training only
        warnings.simplefilter("ignore", UserWarning)
        return create_feature_extractor(model, return_nodes=list(nodes)).eval(), levels


@contextmanager
def _named_downloads(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "put the file into pretrain/ and set backbone.weights to its path"
        ) from error


@torch.no_grad()
def _torchvision_levels(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Find the last module at each stride from 4 on, heads apart: module name → (channels, stride)."""
    children = dict(model.named_children())
    container = next((name for name in children if name in {"features", "layers", "trunk_output"}), None)
    inner = {f"{container}.{n}": m for n, m in children.pop(container).named_children()} if container else {}
    candidates = {**{n: m for n, m in children.items() if n not in {"fc", "classifier", "head", "heads"}}, **inner}
    side, found = 256, {}

    def record(name: str, module: nn.Module, output: Any) -> None:
        kernels = {m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)}
        is_head = bool(kernels) and kernels <= {(1, 1)}
        is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1
        if is_map and not is_head and side % output.shape[3] == 0:
            found[side // output.shape[3]] = (name, output.shape[1])

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: record(name, module, output))
        for name, module in candidates.items()
    ]
    model(torch.zeros(1, 3, side, side, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    return {name: (channels, stride) for stride, (name, channels) in sorted(found.items()) if stride >= 4}


def _load_file(extractor: nn.Module, path: Path, name: str) -> None:
    """Load a state dict of the whole model or of its feature levels; what it holds beyond them is not needed."""
    if not path.is_file():
        raise UserError(f"backbone.weights: {path} does not exist; give {name}'s state dict, 'hub' or 'none'")
    stored = {key.removeprefix("module."): value for key, value in _read_tensors(path).items()}
    wanted = extractor.state_dict()
    # timm flattens `stages.0` to `stages_0` in its feature extractors
    chosen = {key: stored.get(key, stored.get(re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", key))) for key in wanted}
    wrong = [
        f"{key}: {'missing' if value is None else tuple(value.shape)}, needed {tuple(wanted[key].shape)}"
        for key, value in chosen.items()
        if (value is None or value.shape != wanted[key].shape) and not key.endswith("num_batches_tracked")
    ]
    if wrong:
        listed = "\n  ".join(wrong[:10] + ([f"… and {len(wrong) - 10} more"] if len(wrong) > 10 else []))
        raise UserError(f"{path} does not hold the weights of {name}; give its own state dict:\n  {listed}")
    extractor.load_state_dict({key: value for key, value in chosen.items() if value is not None}, strict=False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no complete safetensors file ({error}); download it again") from error
    stored = checkpoint.read(path)
    stored = stored.get("state_dict", stored)
    return {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}

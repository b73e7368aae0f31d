"""Networks that give feature levels: those of timm, and those of torchvision."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from realnet.errors import UserError
from realnet.models.levels import ImageSize, Output, probe
from realnet.models.packages import PACKAGES
from realnet.models.statistics import Statistics
from realnet.models.torchvision_levels import hollow_torchvision, last_of_each_stride, module_shapes

TORCHVISION = "torchvision/"
OWN_SIZE: ImageSize = (256, 256)
"""The size that a model is looked at where neither its config nor the user names one."""
LEVELS_OF_ONE_STRIDE = 4
"""How many of a transformer's blocks, all of one stride, serve as levels: evenly over its depth, with the last."""
PUBLISHED_DOWNSAMPLING = 4

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Extractor:
    """A network that gives feature levels, and what its images are normalised by.

    Attributes:
        network: returns the maps as a list or by name.
        outputs: the levels in its maps, finest first.
        statistics: of the images that it was trained on.
    """

    network: nn.Module
    outputs: tuple[Output, ...]
    statistics: Statistics


def build_extractor(name: str, *, pretrained: bool, image_size: ImageSize | None) -> Extractor:
    """Build the network that a config names.

    Args:
        name: a timm model, or ``torchvision/<name>``.
        pretrained: with the model's own weights, downloaded once; else with random ones.
        image_size: (height, width) of the images to come; None: that of the model.

    Raises:
        UserError: for an unknown model, one without feature levels, and one that does not take the image size.
    """
    if name.startswith(TORCHVISION):
        return _torchvision_extractor(name.removeprefix(TORCHVISION), pretrained, image_size)
    return _timm_extractor(name, pretrained, image_size)


def measure(name: str, image_size: ImageSize | None) -> tuple[Output, ...]:
    """Return the levels of the network that :func:`build_extractor` would build.

    Raises:
        UserError: as :func:`build_extractor`.
    """
    if name.startswith(TORCHVISION):
        return _number(_torchvision_nodes(name.removeprefix(TORCHVISION), image_size or OWN_SIZE))
    return _fitting_options(name, image_size)[1]


def _number(nodes: Mapping[str, Output]) -> tuple[Output, ...]:
    return tuple(replace(output, position=i) for i, output in enumerate(nodes.values()))


def _timm_extractor(name: str, pretrained: bool, image_size: ImageSize | None) -> Extractor:
    import timm

    options, outputs = _fitting_options(name, image_size)
    with named_downloads(name):
        network = timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    made_for: Any = network.pretrained_cfg
    return Extractor(network, outputs, Statistics.of(made_for["mean"], made_for["std"]))


def _fitting_options(name: str, image_size: ImageSize | None) -> tuple[Options, tuple[Output, ...]]:
    """Return how to build a timm model for the image size, and its levels; tries them without weights."""
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"timm has no model {name!r}; near names: {near}; torchvision's are torchvision/<name>")
    try:
        out_indices, own_size = _offer(name)
    except Exception as error:  # timm's models refuse in many ways
        raise UserError(f"timm's {name} gives no feature levels ({_reason(error)}); choose another one") from error
    indices = {"out_indices": out_indices}
    try:
        return _fit(name, indices, image_size or own_size)
    except Exception as error:
        other = _size_that_fits(name, indices, image_size or own_size, own_size)
        if other is None:
            raise UserError(f"timm's {name} gives no feature levels ({_reason(error)}); choose another one") from error
        raise UserError(
            f"image_size {_text(image_size or own_size)}: the backbone {name} does not take it ({_reason(error)}); "
            f"set image_size to {_text(other)}, or choose another backbone.name"
        ) from error


def _fit(name: str, indices: Options, image_size: ImageSize) -> tuple[Options, tuple[Output, ...]]:
    """Return the first options that work: as the model is, its positions resampled as needed, built for the size.

    Raises the last refusal of an option that the model has; that of the model as it is where it has none.
    """
    refusal: Exception | None = None
    for own in ({}, {"dynamic_img_size": True}, {"img_size": image_size}):
        options = {**indices, **own}
        try:
            outputs = _probe_timm(name, options, image_size)
            if "img_size" in own:
                _require_cover(outputs, image_size)
            return options, outputs
        except TypeError as error:  # an option that the model does not have
            refusal = refusal or error
        except Exception as error:
            refusal = error
            if "dynamic_img_size" in own:
                break
    assert refusal is not None
    raise refusal


def _require_cover(outputs: Sequence[Output], image_size: ImageSize) -> None:
    """Check that patches leave no border of the image out, as a model that is built for an odd size does."""
    for output in outputs:
        covered = tuple(side * output.stride for side in output.sides)
        if covered[0] < image_size[0] or covered[1] < image_size[1]:
            raise ValueError(f"its patches cover {covered[0]}x{covered[1]} pixels")


def _size_that_fits(name: str, indices: Options, image_size: ImageSize, own_size: ImageSize) -> ImageSize | None:
    """Return an image size that the model takes: the nearest that its strides divide, else its own."""
    with suppress(Exception):
        _, outputs = _fit(name, indices, own_size)
        step = math.lcm(*(output.stride for output in outputs)) * PUBLISHED_DOWNSAMPLING
        height, width = (max(1, round(side / step)) * step for side in image_size)
        for candidate in ((height, width), own_size):
            with suppress(Exception):
                _fit(name, indices, candidate)
                return candidate
    return None


def _hollow_timm(name: str, options: Options) -> Any:
    import timm

    with torch.device("meta"):
        return timm.create_model(name, features_only=True, **options).eval()


def _probe_timm(name: str, options: Options, image_size: ImageSize) -> tuple[Output, ...]:
    """Measure a timm model's levels, without contents unless it computes with them."""
    import timm

    try:
        return _probe_hollow(name, tuple(options.items()), image_size)
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
    return probe(timm.create_model(name, features_only=True, **options).eval(), image_size)


@cache  # one command builds and measures the same model several times
def _offer(name: str) -> tuple[tuple[int, ...], ImageSize]:
    """Return which of a timm model's levels serve, and the size that it is made for."""
    plain = _hollow_timm(name, {})
    height, width = plain.pretrained_cfg.get("input_size", (3, *OWN_SIZE))[1:]
    return tuple(_out_indices(plain)), (height, width)


@cache
def _probe_hollow(name: str, options: tuple[tuple[str, Any], ...], image_size: ImageSize) -> tuple[Output, ...]:
    return probe(_hollow_timm(name, dict(options)), image_size)


def _out_indices(plain: Any) -> list[int]:
    """Choose among what a timm model offers: its own choice, or blocks spread over a depth of one stride."""
    offered = plain.feature_info.info
    strides = [level["reduction"] for level in offered]
    if len(set(strides)) < len(strides):
        return [index for stride in sorted(set(strides)) for index in _spread(strides, stride)]
    modules = plain.feature_info.module_name()
    # a stem that comes before a model's own `layer1` is no level of the method
    return [i for i, module in enumerate(modules) if "layer1" not in modules or module.startswith("layer")]


def _spread(strides: Sequence[int], stride: int) -> list[int]:
    every = [index for index, other in enumerate(strides) if other == stride]
    number = min(len(every), LEVELS_OF_ONE_STRIDE)
    return [every[len(every) * (i + 1) // number - 1] for i in range(number)]


def _torchvision_extractor(name: str, pretrained: bool, image_size: ImageSize | None) -> Extractor:
    from torchvision.models import get_model, get_model_weights
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes = _torchvision_nodes(name, image_size or OWN_SIZE)
    with named_downloads(f"{TORCHVISION}{name}"):
        model = get_model(name, weights="DEFAULT" if pretrained else None).eval()
    with warnings.catch_warnings():  # of modules that are there in training only
        warnings.simplefilter("ignore", UserWarning)
        network = create_feature_extractor(model, return_nodes=list(nodes)).eval()
    transforms: Any = get_model_weights(name).DEFAULT.transforms()
    return Extractor(network, _number(nodes), Statistics.of(transforms.mean, transforms.std))


def _torchvision_nodes(name: str, image_size: ImageSize) -> dict[str, Output]:
    """Return a torchvision model's levels by the names of the modules that give them."""
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        raise UserError(f"torchvision has no model {name!r}; see torchvision.models.list_models()")
    transforms: Any = get_model_weights(name).DEFAULT.transforms()
    crop = transforms.crop_size[0]
    own_size, hollow, reason = (crop, crop), hollow_torchvision(name), ""
    for size in dict.fromkeys((OWN_SIZE, image_size, own_size)):
        try:
            nodes = last_of_each_stride(hollow, size)
            module_shapes(hollow, {}, image_size if size == OWN_SIZE else size)
        except Exception as error:  # made for another size; as timm's models these refuse in many ways
            reason = reason or _reason(error)
            continue
        if not nodes:
            break
        if size not in {OWN_SIZE, image_size}:
            raise UserError(
                f"image_size {_text(image_size)}: the backbone {TORCHVISION}{name} does not take it ({reason}); set "
                f"image_size to {_text(size)}, or choose another backbone.name"
            )
        return nodes
    raise UserError(f"{TORCHVISION}{name} has no feature maps (B, C, H, W) of strides from 4 on; choose another one")


@contextmanager
def named_downloads(name: str) -> Iterator[None]:
    """Turn the failed download of a model's weights into a ``UserError``."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        otherwise = "set backbone.weights to package, or " if name.split(".")[0] in PACKAGES else ""
        raise UserError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}: {_reason(error)}); {otherwise}"
            "put the file into pretrain/ and set backbone.weights to its path"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")


def _text(size: ImageSize) -> str:
    return f"{size[0]}x{size[1]}"

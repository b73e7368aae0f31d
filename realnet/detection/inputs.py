"""Turn what users hand to a detector into uint8 RGB: files, PIL images, arrays and tensors of a known range."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor

from realnet.data.images import Image, read_image, to_8_bits
from realnet.errors import UserError

ImageInput = np.ndarray | Tensor | PILImage.Image | str | Path
EXPECTED = (
    "an image must be a path, a PIL image, an array (H, W) or (H, W, 3) in RGB, or a tensor (H, W) or (3, H, W), of "
    "uint8, uint16, or float in [0, 1]"
)


def to_images(given: Any) -> Iterable[ImageInput] | None:
    """Return the images of an iterable, an array (B, H, W, 3) or a tensor (B, 3, H, W); None for a single image.

    Raises:
        UserError: for what is neither an image nor several.
    """
    if isinstance(given, (str, Path, PILImage.Image)) or (isinstance(given, (np.ndarray, Tensor)) and given.ndim < 4):
        return None
    if isinstance(given, (np.ndarray, Tensor)) and given.ndim == 4:
        return list(given)
    if isinstance(given, Iterable) and not isinstance(given, (bytes, dict, np.ndarray, Tensor)):
        return given
    raise UserError(f"{EXPECTED}, but this one is {_described(given)}")


def to_image(given: Any, *, bits: int = 16) -> Image:
    """Return a single image as uint8 RGB (H, W, 3).

    Args:
        given: the image.
        bits: bits that 16-bit values use.

    Raises:
        UserError: if a file cannot be read, or the image has another shape, type or range than expected.
    """
    if isinstance(given, (str, Path)):
        return read_image(Path(given), bits)
    pixels = given
    if isinstance(given, PILImage.Image):
        pixels = _from_pil(given, bits)
    if isinstance(given, Tensor):
        pixels = given.detach().cpu().to(torch.float32 if given.dtype.is_floating_point else given.dtype).numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and pixels.shape[0] == 3 else pixels
    if not isinstance(pixels, np.ndarray) or pixels.size == 0 or not _has_shape_of_image(pixels):
        raise UserError(f"{EXPECTED}, but this one is {_described(given)}")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = _from_unit_range(pixels)
    elif pixels.dtype in (np.uint8, np.uint16):
        pixels = to_8_bits(pixels, bits)
    else:
        raise UserError(f"{EXPECTED}, but this one is {_described(given)}")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels)


def _has_shape_of_image(pixels: NDArray[Any]) -> bool:
    return pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))


def _from_unit_range(pixels: NDArray[Any]) -> Image:
    """Return uint8 for floats in [0, 1]."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"an image of floats must lie in [0, 1], but this one lies in [{low:g}, {high:g}]; divide it by the "
            "largest possible value (255 for 8 bits), and undo any normalisation by mean and deviation"
        )
    return np.round(pixels * 255).astype(np.uint8)


def _described(given: Any) -> str:
    if isinstance(given, (np.ndarray, Tensor)):
        return f"{given.dtype} {tuple(given.shape)}"
    return type(given).__name__


def _from_pil(image: PILImage.Image, bits: int) -> Image:
    """Return the array that ``read_image`` would return for the image's file."""
    image = ImageOps.exif_transpose(image)
    if image.mode in {"I", "F"}:
        raise UserError(f"a PIL image of mode {image.mode!r} has no known range; give its file, or 8-bit values")
    if image.mode.startswith("I;16"):
        image = PILImage.fromarray(to_8_bits(np.asarray(image), bits))
    return np.asarray(image.convert("RGB"))

"""Read, write and resize images and masks, and convert them to the value ranges that networks take."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from realnet.config import MaskRule
from realnet.data.decoding import decode
from realnet.errors import UserError
from realnet.runtime.files import refusing, whole

Image = NDArray[Any]  # OpenCV's type annotations do not know uint8
"""uint8 RGB (H, W, 3)."""
Mask = NDArray[np.bool_]
"""bool (H, W), True on a defect (or an object)."""
Pixels = NDArray[Any]
"""uint8 (H, W) or (H, W, C)."""
NON_ZERO = MaskRule()
NOISE = 16
"""JPEG and scanners turn black into values up to this."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# (x / 255 - mean) / std as one multiplication and one addition per channel
_NORMALISE = [(1 / (255 * std), -mean / std) for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
_SIGN = [(1 / 127.5, -1.0)] * 3


def read_image(source: Path | bytes, bits: int = 16) -> Image:
    """Read any image, a file or its bytes, as 8-bit RGB (H, W, 3), rotated according to its EXIF orientation.

    Grey images get three equal channels, and transparency is dropped. Of 16-bit values, the upper 8 of the ``bits`` in
    use remain; larger values become 255.

    Raises:
        UserError: if the file is missing, unreadable or truncated, or holds other than 8-bit and 16-bit values; the
            message names it.
    """
    pixels = decode(source, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return cv2.cvtColor(to_8_bits(pixels, bits), cv2.COLOR_BGR2RGB)


def to_8_bits(pixels: Pixels, bits: int) -> Pixels:
    """Return the upper 8 of the ``bits`` that uint16 values use, as uint8; uint8 values stay as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.minimum(pixels >> (bits - 8), 255).astype(np.uint8)


def read_mask(path: Path, rule: MaskRule = NON_ZERO) -> Mask:
    """Read a mask file of any depth and colour as bool (H, W), True on a defect.

    Args:
        path: the file.
        rule: which pixels are defects; by default, any that is not black.

    Raises:
        UserError: if the file is missing, unreadable or truncated, or has no transparency that the rule asks for; the
            message names it.
    """
    return defects_in(read_mask_values(path, rule), rule)


def read_mask_values(path: Path, rule: MaskRule = NON_ZERO) -> Pixels:
    """Read what a mask's file holds, in OpenCV's order and the file's own depth; see :func:`read_mask`."""
    # a 16-bit mask may hold small numbers, which 8 bits would drop
    flags = cv2.IMREAD_UNCHANGED if rule.channel == "alpha" else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    pixels = decode(path, flags)
    if rule.channel == "alpha" and (pixels.ndim != 3 or pixels.shape[2] != 4):
        raise UserError(f"the mask {path} has no transparency, but dataset.yaml says masks.channel: alpha; correct one")
    return pixels


def defects_in(values: Pixels, rule: MaskRule) -> Mask:
    """Return which pixels of a mask (:func:`read_mask_values`) are defects, bool (H, W)."""
    scale = _scale(values)
    if rule.channel == "alpha":
        distance = values[..., 3]
    elif any(rule.background):
        background = np.array(rule.background[::-1], np.int64) * scale
        distance = np.abs(values - background).max(axis=2)
    else:
        distance = values.max(axis=2)
    return np.asarray(distance > rule.above * scale)


def _scale(values: Pixels) -> int:
    """Return what one of 255 levels is in the values' own depth."""
    return 257 if values.dtype == np.uint16 else 1


def read_pixels(path: Path) -> Pixels:
    """Read an image file as uint8 RGB (H, W, 3), or RGBA (H, W, 4) if it has transparency.

    Raises:
        UserError: if the file is missing, unreadable or truncated; the message names it.
    """
    pixels = decode(path, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != np.uint8:
        pixels = np.minimum(pixels, 255).astype(np.uint8) if pixels.max() < 256 else (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def is_drawn(path: Path, rule: MaskRule = NON_ZERO) -> bool | None:
    """Tell whether a mask shows a defect; None if all of it is one, or if it shows more than noise that is none.

    Args:
        path: the file.
        rule: which pixels are defects; where it asks for transparency that the file lacks, any that is not black.

    Raises:
        UserError: if it cannot be read; the message names it.
    """
    values = np.atleast_3d(decode(path, cv2.IMREAD_UNCHANGED))
    if rule.channel == "alpha" and values.shape[2] != 4:
        rule = NON_ZERO
    if is_lossy(path):
        rule = rule.model_copy(update={"above": max(rule.above, NOISE)})
    defects = defects_in(values if rule.channel == "alpha" else values[..., :3], rule)
    if defects.any():
        return None if defects.all() else True
    return None if np.ptp(values, axis=(0, 1)).max() > NOISE * _scale(values) else False


def is_lossy(path: Path) -> bool:
    """Tell whether a file is a JPEG, which changes the values of pixels."""
    try:
        with path.open("rb") as file:
            return file.read(3) == b"\xff\xd8\xff"
    except OSError:
        return False


def write_image(path: Path, image: Image | Mask) -> None:
    """Write an RGB image (H, W, 3), or a mask (H, W) as 0 and 255, in the format of the file's suffix.

    Raises:
        UserError: if the file cannot be written.
    """
    encoded = _encode(image, path.suffix)
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)


def write_whole_image(path: Path, image: Image) -> None:
    """Write an image so that a reader never sees a part of it.

    Raises:
        UserError: if the file cannot be written.
    """
    with whole(path) as part:
        part.write_bytes(_encode(image, path.suffix))


def _encode(image: Image | Mask, suffix: str) -> bytes:
    pixels: Image = image.astype(np.uint8) * 255 if image.dtype == np.bool_ else image
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix.lower() in {".jpg", ".jpeg"} else []
    return cv2.imencode(suffix, pixels, quality)[1].tobytes()


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (height, width) by PIL's antialiased bilinear filter; return the image itself if it already fits."""
    if image.shape[:2] == size:
        return image
    return np.asarray(PILImage.fromarray(image).resize(size[::-1], PILImage.Resampling.BILINEAR))


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize to (height, width) by the nearest pixel; return the mask itself if it already fits."""
    if mask.shape == size:
        return mask
    pixels = PILImage.fromarray(mask.astype(np.uint8)).resize(size[::-1], PILImage.Resampling.NEAREST)
    return np.asarray(pixels, dtype=np.bool_)


def normalise(image: Image) -> Tensor:
    """Convert to the detector's input: float32 (3, H, W), ImageNet-normalised (docs/method.md, Detector)."""
    return _to_tensor(image, _NORMALISE)


def to_batch(images: Iterable[Image]) -> Tensor:
    """Return images, uint8 RGB (H, W, 3), as an ImageNet-normalised batch (B, 3, H, W)."""
    return torch.stack([normalise(image) for image in images])


def mask_to_tensor(mask: Mask) -> Tensor:
    """Convert a mask (H, W) to float32 (1, H, W) in {0, 1}."""
    return torch.from_numpy(mask[None].astype(np.float32))


def to_signed(image: Image) -> Tensor:
    """Convert to the diffusion model's input: float32 (3, H, W) in [-1, 1] (docs/method.md, Diffusion model)."""
    return _to_tensor(image, _SIGN)


def _to_tensor(image: Image, coefficients: Sequence[tuple[float, float]]) -> Tensor:
    planes = [
        plane * np.float32(scale) + np.float32(offset)
        for plane, (scale, offset) in zip(cv2.split(image), coefficients, strict=True)
    ]
    return torch.from_numpy(np.stack(planes))

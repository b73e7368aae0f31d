"""Read, write and resize images and masks, and convert them to the value ranges that networks take."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from realnet.errors import UserError
from realnet.runtime.files import refusing, whole

Image = NDArray[Any]  # OpenCV's type annotations do not know uint8
"""uint8 RGB (H, W, 3)."""
Mask = NDArray[np.bool_]
"""bool (H, W), True on a defect (or an object)."""

cv2.setNumThreads(1)  # worker processes already load the many small items in parallel
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our own errors name unreadable files

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# (x / 255 - mean) / std as one multiplication and one addition per channel
_NORMALISE = [(1 / (255 * std), -mean / std) for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
_SIGN = [(1 / 127.5, -1.0)] * 3


def read_image(path: Path) -> Image:
    """Read any image file as 8-bit RGB (H, W, 3), rotated according to its EXIF orientation.

    Grey images get three equal channels, 16-bit values keep only their upper byte, and transparency is dropped.

    Raises:
        UserError: if the file is missing, unreadable or truncated; the message names it.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> Mask:
    """Read a mask file of any depth and colour as bool (H, W); any non-zero value is a defect.

    Raises:
        UserError: if the file is missing, unreadable or truncated; the message names it.
    """
    # keep the file's own depth: a 16-bit mask may hold small numbers, which 8 bits would drop
    return _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH).max(axis=2) > 0


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


def _decode(path: Path, flags: int) -> NDArray[Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the image {path}: {error.strerror}; check the path and its permissions"
        ) from error
    pixels = None
    if data and not _is_truncated(data):  # some OpenCV versions silently fill the missing part with grey
        with suppress(cv2.error):  # for example, more than 2^30 pixels
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise UserError(
            f"{path} ({len(data)} bytes) is truncated, or not an image that OpenCV can read (2^30 pixels at most); "
            "replace the file or remove it"
        )
    return pixels


def _is_truncated(data: bytes) -> bool:
    """Tell whether a JPEG or PNG lacks its end; OpenCV's decoder judges other formats."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # the end mark follows the last scan
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]

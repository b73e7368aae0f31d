"""Write classes of drawn photographs in MVTec-AD's layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realnet.data.images import Image, Mask, write_image

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class DrawnClass:
    """What draws the photographs of a class.

    Attributes:
        normal: draws a normal one.
        defects: by the kind of defect, what draws one with its mask.
    """

    normal: Callable[[Size, np.random.Generator], Image]
    defects: Mapping[str, Callable[[Size, np.random.Generator], tuple[Image, Mask]]]


def write_classes(
    root: Path,
    classes: Mapping[str, DrawnClass],
    *,
    image_size: Size,
    num_train: int,
    num_good: int,
    num_defects: int,
    seed: int,
) -> None:
    """Write images and masks as PNG; each depends only on the seed and its own name, so changing a count changes none.

    Args:
        root: the image root; files with the same names are overwritten.
        classes: by their names.
        image_size: (height, width) in pixels.
        num_train: normal training images per class.
        num_good: normal test images per class.
        num_defects: test images per class and kind of defect.
        seed: seed of all draws.
    """
    for class_name, drawn in classes.items():
        for folder, count in (("train/good", num_train), ("test/good", num_good)):
            for number in range(count):
                name = f"{class_name}/{folder}/{number:03d}"
                write_image(root / f"{name}.png", drawn.normal(image_size, draws_of(seed, name)))
        for kind, draw in drawn.defects.items():
            for number in range(num_defects):
                name = f"{class_name}/test/{kind}/{number:03d}"
                image, mask = draw(image_size, draws_of(seed, name))
                write_image(root / f"{name}.png", image)
                write_image(root / f"{class_name}/ground_truth/{kind}/{number:03d}_mask.png", mask)


def are_complete(
    root: Path, classes: Mapping[str, DrawnClass], *, num_train: int, num_good: int, num_defects: int
) -> bool:
    """Tell whether an image root holds as many images and masks as :func:`write_classes` writes."""
    for class_name, drawn in classes.items():
        wanted = {"train/good": num_train, "test/good": num_good}
        wanted |= {f"{part}/{kind}": num_defects for kind in drawn.defects for part in ("test", "ground_truth")}
        if any(len(list((root / class_name / name).glob("*.png"))) < count for name, count in wanted.items()):
            return False
    return True


def draws_of(seed: int, name: str) -> np.random.Generator:
    """Return the generator of a photograph's draws."""
    return np.random.default_rng((seed, *name.encode()))

"""Own data: recognise how a folder of images is laid out, and register it as a dataset."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from realnet.config import DatasetConfig, experiments, paths
from realnet.data.index import discover_classes, folders_in, images_in, is_sorted
from realnet.data.registry import OpenDataset
from realnet.errors import UserError

LayoutName = Literal["mvtec", "class", "sorted", "folder", "folders"]


@dataclass(frozen=True)
class Layout:
    """A way to lay out images; ``fits`` tells whether a source folder has it."""

    description: str
    is_one_class: bool
    fits: Callable[[Path], bool]


LAYOUTS: Mapping[LayoutName, Layout] = {
    "class": Layout(
        "one class: train/good (or train/ok, or train), optionally with test/<kind> and ground_truth/<kind>",
        True,
        lambda source: (source / "train").is_dir(),
    ),
    "mvtec": Layout(
        "one folder per class, each with train/good (or train/ok, or train), test/<kind>, ground_truth/<kind>",
        False,
        lambda source: any((source / name / "train").is_dir() for name in folders_in(source)),
    ),
    "sorted": Layout(
        "one class: a folder of normal images (good, ok or normal), and next to it one folder per kind of defect",
        True,
        is_sorted,
    ),
    "folder": Layout("one class: a flat folder of normal images", True, lambda source: bool(images_in(source))),
    "folders": Layout(
        "one folder per class, each a flat folder of normal images (or sorted into good and kinds of defects)",
        False,
        lambda source: any(images_in(source / name) or is_sorted(source / name) for name in folders_in(source)),
    ),
}
"""The known layouts, in the order in which ``recognise`` tries them."""


@dataclass(frozen=True)
class Recognised:
    """A folder of images whose layout is known.

    Attributes:
        layout: name of the layout in ``LAYOUTS``.
        image_root: the folder that holds the class folders.
        classes: names of the classes.
        is_whole_root: whether the dataset is everything under the image root, so that its config lists no classes.
    """

    layout: LayoutName
    image_root: Path
    classes: tuple[str, ...]
    is_whole_root: bool

    def as_dataset(self, name: str) -> OpenDataset:
        """Return the dataset that registering the images under this name would make."""
        return OpenDataset(name, DatasetConfig(image_root=str(self.image_root)), self.classes)


def recognise(source: Path, *, layout: LayoutName | Literal["auto"] = "auto") -> Recognised:
    """Recognise the layout of a folder of images.

    Args:
        source: the folder.
        layout: the layout to expect; ``auto`` takes the first that fits.

    Raises:
        UserError: if the folder does not exist, or does not fit the expected layout (with ``auto``, any layout).
    """
    if not source.is_dir():
        raise UserError(f"--source {source} is not a folder; give the folder that holds the images")
    candidates = list(LAYOUTS) if layout == "auto" else [layout]
    fitting = [name for name in candidates if LAYOUTS[name].fits(source)]
    if not fitting:
        expected = "".join(f"\n  {name}: {LAYOUTS[name].description}" for name in candidates)
        raise UserError(f"{source} is not laid out as expected; put the images into one of these layouts:{expected}")
    if not LAYOUTS[fitting[0]].is_one_class:
        return Recognised(fitting[0], source, tuple(discover_classes(source)), True)
    named = source if source.name not in {"", ".."} else source.resolve()
    return Recognised(fitting[0], named.parent, (named.name,), False)


def register(name: str, found: Recognised, *, force: bool = False) -> Path:
    """Write ``experiments/<name>/``: the location of the images, and a config for each stage.

    Args:
        name: name of the dataset.
        found: its images, which stay where they are.
        force: overwrite existing configs of that name.

    Raises:
        UserError: if the name cannot name a folder or is taken, or if a file cannot be written.
    """
    folder = check_name(name, force=force)
    files: dict[str, str] = {"dataset": _dataset_yaml(found), **_stage_yamls(name, found)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stage, text in files.items():
            (folder / f"{stage}.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; check its permissions") from error
    return folder


def check_name(name: str, *, force: bool = False) -> Path:
    """Return the folder of a new dataset's configs.

    Raises:
        UserError: if the name cannot name a folder, or if it is taken and ``force`` is False.
    """
    if name in {"", ".", ".."} or name.startswith(("-", ".")) or {os.sep, "/", "\\"} & set(name):
        raise UserError(f"--name {name!r} becomes a folder in experiments/; give a plain name such as bolts")
    folder = paths.experiment(name)
    if folder.exists() and not force:
        raise UserError(f"{folder} exists; choose another --name, or give --force to overwrite its configs")
    if name in experiments() and not force:
        raise UserError(f"realnet brings a dataset {name!r}; choose another --name, or give --force to use this one")
    return folder


def _dataset_yaml(found: Recognised) -> str:
    lines = [f"image_root: {_quoted(str(found.image_root))}"]
    if not found.is_whole_root:
        lines.append(f"classes: [{', '.join(map(_quoted, found.classes))}]")
    lines.append("# foreground: {} # per class: full, or a rule; other classes use auto")
    return "".join(f"{line}\n" for line in lines)


def _stage_yamls(name: str, found: Recognised) -> dict[str, str]:
    same = "# All values are the published ones; `python {}.py --dataset {} --dry-run` prints them.\n"
    single = "# The dataset has only one class, so this stage is not needed: sampling runs without guidance.\n"
    return {
        "diffusion": same.format("train_diffusion", name),
        "classifier": (single if len(found.classes) == 1 else "") + same.format("train_classifier", name),
        "sample": same.format("sample", name),
        "realnet": "calibration: {holdout_fraction: 0.1} # of the normal images, to set the verdict's threshold\n",
    }


def _quoted(text: str) -> str:
    """Quote a string for YAML, as JSON does: every JSON string is a YAML string."""
    return json.dumps(text, ensure_ascii=False)

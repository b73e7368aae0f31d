"""Own data: recognise how a folder of images is laid out, and register it as a dataset."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from realnet.config import DatasetConfig, paths
from realnet.data.index import discover_classes, folders_in, images_in, is_sorted
from realnet.data.registry import OpenDataset
from realnet.errors import UserError

LayoutName = Literal["mvtec", "class", "sorted", "folder", "folders"]


@dataclass(frozen=True)
class Layout:
    """A way to lay out images, which a predicate recognises by the source folder."""

    description: str
    is_one_class: bool
    fits: Callable[[Path], bool]


LAYOUTS: Mapping[LayoutName, Layout] = {
    "class": Layout(
        "one class: train/good (or train/ok, or train), and where there are any test/<kind> and ground_truth/<kind>",
        True,
        lambda source: (source / "train").is_dir(),
    ),
    "mvtec": Layout(
        "a folder a class, each with train/good (or train/ok, or train), test/<kind>, ground_truth/<kind>",
        False,
        lambda source: any((source / name / "train").is_dir() for name in folders_in(source)),
    ),
    "sorted": Layout(
        "one class: a folder of normal images (good, ok or normal), and a folder beside it for each kind of defect",
        True,
        is_sorted,
    ),
    "folder": Layout("one class: a flat folder of normal images", True, lambda source: bool(images_in(source))),
    "folders": Layout(
        "a folder a class, each a flat folder of normal images (or sorted into good and kinds of defects)",
        False,
        lambda source: any(images_in(source / name) or is_sorted(source / name) for name in folders_in(source)),
    ),
}
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Recognised:
    """A folder of images whose layout is known.

    Attributes:
        layout: its name among ``LAYOUTS``.
        image_root: the folder that holds the classes' folders.
        classes: their names.
        is_whole_root: whether all that lies under the image root is the dataset, so that no list of classes is needed.
    """

    layout: LayoutName
    image_root: Path
    classes: tuple[str, ...]
    is_whole_root: bool

    def as_dataset(self, name: str) -> OpenDataset:
        """Return the dataset of that name that registering would make."""
        return OpenDataset(name, DatasetConfig(image_root=str(self.image_root)), self.classes)


def recognise(source: Path, *, layout: LayoutName | Literal["auto"] = "auto") -> Recognised:
    """Find out how a folder of images is laid out.

    Args:
        source: the folder.
        layout: what it must be; ``auto``: whichever fits first.

    Raises:
        UserError: where the folder is absent, or fits no layout, or not the one asked for.
    """
    if not source.is_dir():
        raise UserError(f"--source {source} is no folder; give the folder that holds the images")
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
    """Write ``experiments/<name>/``: where the images are, and a config for each stage.

    Args:
        name: of the dataset.
        found: its images, which stay where they are.
        force: overwrite the configs of that name.

    Raises:
        UserError: where the name is none for a folder, or taken, or nothing can be written.
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
        UserError: where the name is none for a folder, or taken and not to be overwritten.
    """
    if name in {"", ".", ".."} or name.startswith(("-", ".")) or {os.sep, "/", "\\"} & set(name):
        raise UserError(f"--name {name!r} becomes a folder of experiments/; give a plain name such as bolts")
    folder = paths.experiment(name)
    if folder.exists() and not force:
        raise UserError(f"{folder} exists; choose another --name, or give --force to overwrite its configs")
    return folder


def _dataset_yaml(found: Recognised) -> str:
    lines = [f"image_root: {_quoted(str(found.image_root))}"]
    if not found.is_whole_root:
        lines.append(f"classes: [{', '.join(map(_quoted, found.classes))}]")
    lines.append("# foreground: {} # by class: full, or a rule; classes that are not named are 'auto'")
    return "".join(f"{line}\n" for line in lines)


def _stage_yamls(name: str, found: Recognised) -> dict[str, str]:
    same = "# Nothing differs from the published values; `python {}.py --dataset {} --dry-run` prints them all.\n"
    single = "# There is one class only: this stage is not needed, and sampling goes without its guidance.\n"
    return {
        "diffusion": same.format("train_diffusion", name),
        "classifier": (single if len(found.classes) == 1 else "") + same.format("train_classifier", name),
        "sample": same.format("sample", name),
        "realnet": "calibration: {holdout_fraction: 0.1} # of the normal images: they set the verdict's threshold\n",
    }


def _quoted(text: str) -> str:
    """Return a YAML string; JSON's are, whatever they hold."""
    return json.dumps(text, ensure_ascii=False)

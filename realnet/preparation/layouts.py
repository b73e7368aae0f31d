"""Own data: recognise how a folder of images is laid out, and register it as a dataset."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from realnet.config import DatasetConfig, MaskRule, experiments, paths
from realnet.data.folders import folders_in, images_in
from realnet.data.images import NON_ZERO
from realnet.data.index import discover_classes, has_roles, is_class
from realnet.data.layout_file import NO_LAYOUT, read_layout
from realnet.data.layout_file import Layout as LayoutFile
from realnet.data.registry import OpenDataset
from realnet.data.words import read_name
from realnet.errors import UserError
from realnet.runtime.files import refusing, whole_file

LayoutName = Literal["mvtec", "class", "sorted", "folder", "folders"]


@dataclass(frozen=True)
class Layout:
    """A way to lay out images; ``fits`` tells whether a source folder has it."""

    description: str
    is_one_class: bool
    fits: Callable[[Path], bool]


def _has_split(folder: Path) -> bool:
    return any(read_name(name).split for name in folders_in(folder))


LAYOUTS: Mapping[LayoutName, Layout] = {
    "class": Layout(
        "one class: train/good (or train/ok, or train), optionally with test/<kind> and ground_truth/<kind>",
        True,
        _has_split,
    ),
    "sorted": Layout(
        "one class: a folder of normal images (good, ok or normal), and next to it one folder per kind of defect",
        True,
        has_roles,
    ),
    "mvtec": Layout(
        "one folder per class, each with train/good (or train/ok, or train), test/<kind>, ground_truth/<kind>",
        False,
        lambda source: any(_has_split(source / name) for name in folders_in(source)),
    ),
    "folder": Layout("one class: a flat folder of normal images", True, lambda source: bool(images_in(source))),
    "folders": Layout(
        "one folder per class, each a flat folder of normal images (or sorted into good and kinds of defects)",
        False,
        lambda source: any(is_class(source / name) for name in folders_in(source)),
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

    def as_dataset(self, name: str, masks: MaskRule) -> OpenDataset:
        """Return the dataset that registering the images under this name, with a rule of masks, would make."""
        return OpenDataset(name, DatasetConfig(image_root=str(self.image_root), masks=masks), self.classes)


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
        inside = (
            f" (the images begin in {source / deeper}; is that the --source?)" if (deeper := _wrapped(source)) else ""
        )
        raise UserError(
            f"{source} is not laid out as expected{inside}; put the images into one of these layouts:{expected}"
        )
    if not LAYOUTS[fitting[0]].is_one_class:
        return Recognised(fitting[0], source, tuple(discover_classes(source)), True)
    return as_one_class(source, fitting[0])


def as_one_class(source: Path, layout: LayoutName = "folder") -> Recognised:
    """Return a folder as the only class of a dataset."""
    named = source if source.name not in {"", ".."} else source.resolve()
    return Recognised(layout, named.parent, (named.name,), False)


def _wrapped(source: Path) -> str:
    """Return the path to the folder in which folders that hold nothing but one folder end; "" if there are none."""
    inner = source
    while len(folders_in(inner)) == 1 and not images_in(inner) and not has_roles(inner):
        inner = inner / folders_in(inner)[0]
    return "" if inner == source else inner.relative_to(source).as_posix()


def register(
    name: str,
    found: Recognised,
    *,
    layout: LayoutFile = NO_LAYOUT,
    masks: MaskRule = NON_ZERO,
    image_bits: int = 16,
    force: bool = False,
) -> Path:
    """Write ``experiments/<name>/``: the location of the images, and a config for each stage that has none.

    Args:
        name: name of the dataset.
        found: its images, which stay where they are.
        masks: which pixels of its masks are defects.
        image_bits: bits that 16-bit values use.
        layout: what the names of files and folders do not tell.
        force: overwrite existing configs of that name.

    Raises:
        UserError: if the name cannot name a folder or is taken, if a file cannot be written, or if there is a layout
            file that says something else.
    """
    folder = check_name(name, force=force)
    require_layout(folder, layout, force=force)
    files = {f"{stage}.yaml": text for stage, text in _stage_yamls(name, found).items()}
    if layout.roles or layout.group:
        files[paths.LAYOUT] = layout.as_yaml()
    else:
        with refusing(folder):
            (folder / paths.LAYOUT).unlink(missing_ok=True)
    own = [] if force else [file_name for file_name in files if (folder / file_name).is_file()]
    files["dataset.yaml"] = _dataset_yaml(found, masks, image_bits)
    for file_name, text in files.items():  # the dataset exists once dataset.yaml does, which comes last
        if file_name not in own:
            with whole_file(folder / file_name) as file:
                file.write(text)
    return folder


def require_layout(folder: Path, layout: LayoutFile, *, force: bool = False) -> None:
    """Check that a layout file in the folder of a new dataset's configs says what the dataset's layout does.

    Raises:
        UserError: if it says something else, and ``force`` is False.
    """
    path = folder / paths.LAYOUT
    if path.is_file() and not force and read_layout(path).as_yaml() != layout.as_yaml():
        raise UserError(
            f"{path} says something else of these images than what would be stored there; move it elsewhere, and give "
            "it as --layout, or replace it with --force"
        )


def check_name(name: str, *, force: bool = False) -> Path:
    """Return the folder of a new dataset's configs.

    Raises:
        UserError: if the name cannot name a folder, or if it is taken and ``force`` is False.
    """
    is_plain = name.isprintable() and not name.startswith(("-", ".")) and not {os.sep, "/", "\\"} & set(name)
    if not (name and is_plain):
        raise UserError(f"--name {name!r} becomes a folder in experiments/; give a plain name such as bolts")
    folder = paths.experiment(name)
    if (folder / "dataset.yaml").exists() and not force:
        raise UserError(f"{folder} exists; choose another --name, or give --force to overwrite its configs")
    if name in experiments() and not force:
        raise UserError(f"realnet brings a dataset {name!r}; choose another --name, or give --force to use this one")
    return folder


def _dataset_yaml(found: Recognised, masks: MaskRule, image_bits: int) -> str:
    lines = [f"image_root: {_quoted(str(found.image_root))}"]
    if not found.is_whole_root:
        lines.append(f"classes: [{', '.join(map(_quoted, found.classes))}]")
    if masks != NON_ZERO:
        values = masks.model_dump(mode="json", exclude_defaults=True)
        lines.append(f"masks: {json.dumps(values)} # {masks}")
    if image_bits != 16:
        lines.append(f"image_bits: {image_bits} # of the values in 16-bit files")
    lines.append("# foreground: {} # per class: full, or a rule; other classes use auto")
    return "".join(f"{line}\n" for line in lines)


def _stage_yamls(name: str, found: Recognised) -> dict[str, str]:
    same = "# All values are the published ones; `python {}.py --dataset {} --dry-run` prints them.\n"
    single = "# The dataset has only one class, so this stage is not needed: sampling runs without guidance.\n"
    return {
        "diffusion": same.format("train_diffusion", shlex.quote(name)),
        "classifier": (single if len(found.classes) == 1 else "") + same.format("train_classifier", shlex.quote(name)),
        "sample": same.format("sample", shlex.quote(name)),
        "realnet": "calibration: {holdout_fraction: auto} # of the normal images, to set the verdict's threshold\n"
        "evaluation: {mask_resize: regions} # thin regions of masks stay whole\n",
    }


def _quoted(text: str) -> str:
    """Quote a string for YAML, as JSON does: every JSON string is a YAML string."""
    return json.dumps(text, ensure_ascii=False)

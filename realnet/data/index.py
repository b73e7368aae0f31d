"""The index of a class: its images and masks, found on disk in any known layout and stored as JSON lines."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from realnet.config import paths
from realnet.errors import UserError
from realnet.runtime.files import whole

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NORMAL_FOLDERS = frozenset({"good", "ok", "normal"})
TRUTH_FOLDER = "ground_truth"
TRAIN_SHARE = 0.8
"""Share of the normal images for training, if they come without a split."""
Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a class: one line of an index file.

    Attributes:
        filename: path relative to the dataset's image root, with forward slashes.
        label: 0 normal, 1 defect.
        label_name: ``good`` or ``defective``.
        class_name: the class it belongs to.
        maskname: path of the mask, relative to the image root; None if there is no mask.
    """

    filename: str
    label: int
    label_name: str
    class_name: str
    maskname: str | None = None

    @property
    def kind(self) -> str:
        """Return ``good``, or the kind of defect: the name of the image's folder."""
        return PurePosixPath(self.filename).parent.name if self.label else "good"


@dataclass(frozen=True)
class ClassIndex:
    """The images of a class, by split."""

    train: tuple[Entry, ...]
    test: tuple[Entry, ...]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sorting key that puts ``2.png`` before ``10.png``."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def discover_classes(root: Path) -> list[str]:
    """Return the class folders under an image root, in natural order.

    A class folder holds a ``train`` folder, images, or a folder of normal images.

    Raises:
        UserError: if the root does not exist or holds no class.
    """
    if not root.is_dir():
        raise UserError(f"the image folder {root} does not exist; put the images there or correct image_root")
    is_itself_class = (root / "train").is_dir() or _normal_folders(root)
    names = [] if is_itself_class else [name for name in folders_in(root) if _is_class(root / name)]
    if names:
        return names
    if _is_class(root):
        raise UserError(f"{root} is itself a class; give the folder above it as image_root: {root.parent}")
    raise UserError(f"{root} holds no class; expected {root}/<class>/train/good/*.png or {root}/<class>/*.png")


def is_sorted(folder: Path) -> bool:
    """Tell whether a class holds a folder of normal images directly, and neither ``train`` nor ``test``."""
    return bool(_normal_folders(folder)) and not any((folder / split).is_dir() for split in ("train", "test"))


def split_normal(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split normal images into training and test images by a hash of their names: every call gives the same split.

    ``TRAIN_SHARE`` of them, rounded down but at least one, are for training; both lists keep the given order.
    """
    given = list(names)
    by_hash = sorted(given, key=lambda name: hashlib.sha256(name.encode()).digest())
    train = set(by_hash[: max(1, int(TRAIN_SHARE * len(given)))])
    return [name for name in given if name in train], [name for name in given if name not in train]


def build_index(root: Path, class_name: str) -> ClassIndex:
    """Find a class's images and masks on disk.

    Training images: ``good`` (or ``ok``, ``normal``) in ``<class>/train``, or else in ``<class>``; without
    such a folder, the images directly there. Test images: ``<class>/test/<kind>``. Masks:
    ``<class>/ground_truth/<kind>/<stem>_mask.*`` or ``<stem>.*``. A class that is only sorted (see ``is_sorted``) has
    a folder for each kind of defect next to ``<class>/good``; if there are any, a fifth of its normal images are test
    images (see ``split_normal``).

    Raises:
        UserError: if the class does not exist or has no training images.
    """
    folder = root / class_name
    if not folder.is_dir():
        known = ", ".join(folders_in(root)) if root.is_dir() else "none, the folder does not exist"
        raise UserError(f"there is no class {class_name!r} under {root} (folders: {known})")
    train = _train_entries(root, class_name)
    if not train:
        raise UserError(
            f"{folder} holds no training images; expected {folder}/train/good/*, {folder}/train/ok/* or {folder}/*"
        )
    if is_sorted(folder):
        return _split_sorted(root, class_name)
    test = [entry for kind in folders_in(folder / "test") for entry in _entries(root, class_name, f"test/{kind}")]
    return ClassIndex(tuple(train), tuple(test))


def write_index(samples_dir: Path, class_name: str, index: ClassIndex) -> None:
    """Write ``train_<class>.json`` and ``test_<class>.json``; each appears only once it is complete.

    Raises:
        UserError: if they cannot be written.
    """
    for split, entries in (("train", index.train), ("test", index.test)):
        # several processes of a run may write the same index; each replaces it as a whole
        with whole(samples_dir / f"{split}_{class_name}.json") as part:
            part.write_text("".join(f"{json.dumps(_to_line(entry))}\n" for entry in entries), encoding="utf-8")


def read_index(samples_dir: Path, class_name: str) -> ClassIndex:
    """Read a class's two index files; a line without ``clsname`` belongs to the file's class.

    Raises:
        UserError: if a file cannot be read, or a line is not an entry; the message names file and line.
    """
    return ClassIndex(_read_split(samples_dir, "train", class_name), _read_split(samples_dir, "test", class_name))


def load_index(samples_dir: Path, image_root: Path, class_name: str, *, write: bool = True) -> ClassIndex:
    """Read a class's index; if there is none, build it from the images on disk and, if ``write``, store it.

    Raises:
        UserError: see ``read_index`` and ``build_index``.
    """
    if all((samples_dir / f"{split}_{class_name}.json").is_file() for split in ("train", "test")):
        return read_index(samples_dir, class_name)
    index = build_index(image_root, class_name)
    if write:
        write_index(samples_dir, class_name, index)
    return index


def _is_class(folder: Path) -> bool:
    return (folder / "train").is_dir() or bool(images_in(folder)) or bool(_normal_folders(folder))


def _normal_folders(folder: Path) -> list[str]:
    return [name for name in folders_in(folder) if name.lower() in NORMAL_FOLDERS and images_in(folder / name)]


def _train_entries(root: Path, class_name: str) -> list[Entry]:
    base = f"{class_name}/train" if (root / class_name / "train").is_dir() else class_name
    folders = [f"{base}/{name}" for name in _normal_folders(root / base)] or [base]
    return [_normal(f"{folder}/{name}", class_name) for folder in folders for name in images_in(root / folder)]


def _split_sorted(root: Path, class_name: str) -> ClassIndex:
    kinds = [kind for kind in folders_in(root / class_name) if kind != TRUTH_FOLDER]
    entries = [entry for kind in kinds for entry in _entries(root, class_name, kind)]
    normal = [entry.filename for entry in entries if not entry.label]
    for_test = split_normal(normal)[1] if len(normal) < len(entries) else []
    train = tuple(entry for entry in entries if not entry.label and entry.filename not in for_test)
    return ClassIndex(train, tuple(entry for entry in entries if entry.label or entry.filename in for_test))


def _entries(root: Path, class_name: str, folder_name: str) -> list[Entry]:
    """Return the images in a folder of the class, all normal or all of one kind of defect."""
    folder, kind = f"{class_name}/{folder_name}", PurePosixPath(folder_name).name
    names = images_in(root / folder)
    if kind.lower() in NORMAL_FOLDERS:
        return [_normal(f"{folder}/{name}", class_name) for name in names]
    truth = f"{class_name}/{TRUTH_FOLDER}/{kind}"
    masks = {Path(name).stem: f"{truth}/{name}" for name in images_in(root / truth)}
    return [_defect(f"{folder}/{name}", class_name, masks) for name in names]


def _normal(filename: str, class_name: str) -> Entry:
    return Entry(filename, 0, "good", class_name)


def _defect(filename: str, class_name: str, masks: dict[str, str]) -> Entry:
    stem = PurePosixPath(filename).stem
    return Entry(filename, 1, "defective", class_name, masks.get(f"{stem}_mask", masks.get(stem)))


def folders_in(path: Path) -> list[str]:
    """Return the names of the visible folders in a folder, in natural order; none if it does not exist."""
    return _sorted(entry.name for entry in _scan(path) if entry.is_dir())


def images_in(path: Path) -> list[str]:
    """Return the names of the visible image files directly in a folder, in natural order; none if it does not exist."""
    return _sorted(entry.name for entry in _scan(path) if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES)


def _scan(path: Path) -> Sequence[os.DirEntry[str]]:
    """Return the visible files and folders in a folder; none if it does not exist."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=natural_key)


def _to_line(entry: Entry) -> dict[str, Any]:
    line = {
        "filename": entry.filename,
        "label": entry.label,
        "label_name": entry.label_name,
        "clsname": entry.class_name,
    }
    return line if entry.maskname is None else {**line, "maskname": entry.maskname}


def _read_split(samples_dir: Path, split: Split, class_name: str) -> tuple[Entry, ...]:
    path = samples_dir / f"{split}_{class_name}.json"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"cannot read the index {path}: {error.strerror}; build it with: python prepare_data.py index "
            f"--dataset {samples_dir.parent.name} --class_name {class_name}"
        ) from error
    return tuple(
        _parse_line(line, f"{path}, line {number}", class_name) for number, line in enumerate(lines, 1) if line.strip()
    )


def _parse_line(line: str, where: str, class_name: str) -> Entry:
    try:
        value = json.loads(line)
        label = int(value["label"])
        entry = Entry(
            filename=str(value["filename"]),
            label=label,
            label_name=str(value.get("label_name", "defective" if label else "good")),
            class_name=str(value.get("clsname", class_name)),
            maskname=str(value["maskname"]) if value.get("maskname") else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{where}: {line[:80]!r} is not an index entry; expected {{"filename": …, "label": 0 or 1}}'
        ) from error
    if label not in (0, 1):
        raise UserError(f"{where}: label must be 0 (normal) or 1 (defect), got {label}")
    if entry.class_name != class_name:
        raise UserError(
            f"{where}: clsname is {entry.class_name!r}, but the file is of class {class_name!r}; move the line to that "
            "class's file, or leave clsname out"
        )
    for name in (entry.filename, *filter(None, [entry.maskname])):
        if not paths.is_inside(name):
            raise UserError(f"{where}: {name!r} must be a relative path inside the image root")
    return entry

"""The index of a class: its images and masks, found on disk in any known layout and stored as JSON lines."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from realnet.config import MaskRule, paths
from realnet.data.folders import folders_in, images_in
from realnet.data.images import NON_ZERO
from realnet.data.layout_file import NO_LAYOUT, Layout
from realnet.data.roles import FileRole, roles_in_class
from realnet.data.words import read_name
from realnet.errors import UserError
from realnet.runtime.files import read_text, refusing, whole

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a class: one line of an index file.

    Attributes:
        filename: path relative to the dataset's image root, with forward slashes.
        label: 0 normal, 1 defect.
        label_name: ``good`` or ``defective``.
        class_name: the class it belongs to.
        maskname: path of the mask, relative to the image root; None if there is no mask.
        named_kind: the kind of defect; None if the image's folder is named for it.
        group: what images that show the same part have in common; None if no other image shows it.
    """

    filename: str
    label: int
    label_name: str
    class_name: str
    maskname: str | None = None
    named_kind: str | None = None
    group: str | None = None

    @property
    def kind(self) -> str:
        """Return ``good``, or the kind of defect: as named, or else the name of the image's folder."""
        return (self.named_kind or PurePosixPath(self.filename).parent.name) if self.label else "good"


@dataclass(frozen=True)
class ClassIndex:
    """The images of a class, by split.

    Attributes:
        train: normal images to train on.
        test: normal images and defects to test on.
        real: defects to make anomalies of; they are in no split.
    """

    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    real: tuple[Entry, ...] = ()

    @property
    def all(self) -> tuple[Entry, ...]:
        """Return all images."""
        return (*self.train, *self.test, *self.real)

    @property
    def defects(self) -> list[Entry]:
        """Return the images of defects, to test on and to train on."""
        return [entry for entry in self.all if entry.label]


def discover_classes(root: Path) -> list[str]:
    """Return the class folders under an image root, in natural order.

    A class folder holds images, or folders whose names say what their images are for.

    Raises:
        UserError: if the root does not exist or holds no class.
    """
    if not root.is_dir():
        raise UserError(f"the image folder {root} does not exist; put the images there or correct image_root")
    names = [] if has_roles(root) else [name for name in folders_in(root) if is_class(root / name)]
    if names:
        return names
    if is_class(root):
        raise UserError(f"{root} is itself a class; give the folder above it as image_root: {root.parent}")
    raise UserError(f"{root} holds no class; expected {root}/<class>/train/good/*.png or {root}/<class>/*.png")


def is_class(folder: Path) -> bool:
    """Tell whether a folder holds images, or folders whose names say what their images are for."""
    return bool(images_in(folder)) or has_roles(folder) or any(is_class(each) for each in _neutral_in(folder))


def has_roles(folder: Path) -> bool:
    """Tell whether a folder's folders are named for what their images are for, such as ``train``, ``NG`` or ``masks``.

    What a folder of no meaning holds, such as ``images``, counts as the folder's own.
    """
    return any(read_name(name).has_role for name in folders_in(folder)) or any(map(has_roles, _neutral_in(folder)))


def _neutral_in(folder: Path) -> list[Path]:
    return [folder / name for name in folders_in(folder) if read_name(name).is_neutral]


def build_index(root: Path, class_name: str, layout: Layout = NO_LAYOUT, masks_rule: MaskRule = NON_ZERO) -> ClassIndex:
    """Find a class's images and masks on disk, by the names of folders and files (``roles_in_class``).

    Raises:
        UserError: if the class does not exist or has no training images.
    """
    folder = root / class_name
    if not folder.is_dir():
        known = ", ".join(folders_in(root)) if root.is_dir() else "none, the folder does not exist"
        raise UserError(
            f"there is no class {class_name!r} under {root} (folders: {known}); if it was moved, correct image_root "
            "in dataset.yaml"
        )
    return index_of(roles_in_class(root, class_name, layout, masks_rule), root, class_name)


def index_of(roles: Sequence[FileRole], root: Path, class_name: str) -> ClassIndex:
    """Return the index of a class whose files' roles are known.

    Raises:
        UserError: if it has no training images.
    """
    masks = {role.image: role.file for role in roles if role.role == "mask" and role.image and not role.reason}
    train = tuple(_entry(role, class_name, masks) for role in roles if role.role == "train")
    if not train:
        folder = root / class_name
        reasons = Counter(role.reason for role in roles if role.role in {"unused", "unclear"})
        why = "".join(f"; {number} images are unused: {reason}" for reason, number in reasons.most_common(2))
        raise UserError(
            f"{folder} holds no training images{why}; expected {folder}/train/good/*, {folder}/train/ok/* or {folder}/*"
            ", or a layout file that says which they are (prepare_data.py add --layout FILE)"
        )
    test = tuple(_entry(role, class_name, masks) for role in roles if role.role in {"good", "defect"})
    real = tuple(_entry(role, class_name, masks) for role in roles if role.role == "real")
    return ClassIndex(train, test, real)


def _entry(role: FileRole, class_name: str, masks: Mapping[str, str]) -> Entry:
    if role.role not in {"defect", "real"}:
        return Entry(role.file, 0, "good", class_name, group=role.group)
    folder = PurePosixPath(role.file).parent.name
    named = None if role.kind == folder else role.kind
    return Entry(role.file, 1, "defective", class_name, masks.get(role.file), named_kind=named, group=role.group)


def write_index(samples_dir: Path, class_name: str, index: ClassIndex) -> None:
    """Write ``train_<class>.json``, ``test_<class>.json`` and, where there are some, ``real_<class>.json``.

    Each appears only once it is complete.

    Raises:
        UserError: if they cannot be written.
    """
    if not index.real:
        with refusing(samples_dir):
            (samples_dir / f"real_{class_name}.json").unlink(missing_ok=True)
    real = [("real", index.real)] if index.real else []
    for split, entries in (*real, ("train", index.train), ("test", index.test)):
        # several processes of a run may write the same index; each replaces it as a whole
        with whole(samples_dir / f"{split}_{class_name}.json") as part:
            part.write_text("".join(f"{json.dumps(_to_line(entry))}\n" for entry in entries), encoding="utf-8")


def read_index(samples_dir: Path, class_name: str) -> ClassIndex:
    """Read a class's index files; a line without ``clsname`` belongs to the file's class.

    Raises:
        UserError: if a file cannot be read, or a line is not an entry; the message names file and line.
    """
    train, test = (_read_split(samples_dir, split, class_name) for split in SPLITS)
    has_real = (samples_dir / f"real_{class_name}.json").is_file()
    return ClassIndex(train, test, _read_split(samples_dir, "real", class_name) if has_real else ())


def load_index(
    samples_dir: Path,
    image_root: Path,
    class_name: str,
    *,
    layout: Layout = NO_LAYOUT,
    masks_rule: MaskRule = NON_ZERO,
    write: bool = True,
) -> ClassIndex:
    """Read a class's index; if there is none, build it from the images on disk and, if ``write``, store it.

    Raises:
        UserError: see ``read_index`` and ``build_index``.
    """
    if all((samples_dir / f"{split}_{class_name}.json").is_file() for split in SPLITS):
        return read_index(samples_dir, class_name)
    index = build_index(image_root, class_name, layout, masks_rule)
    if write:
        write_index(samples_dir, class_name, index)
    return index


def _to_line(entry: Entry) -> dict[str, Any]:
    line = {
        "filename": entry.filename,
        "label": entry.label,
        "label_name": entry.label_name,
        "clsname": entry.class_name,
    }
    optional = {"maskname": entry.maskname, "kind": entry.named_kind, "group": entry.group}
    return line | {key: value for key, value in optional.items() if value is not None}


def _read_split(samples_dir: Path, split: Split | Literal["real"], class_name: str) -> tuple[Entry, ...]:
    path = samples_dir / f"{split}_{class_name}.json"
    names = f"--dataset {shlex.quote(samples_dir.parent.name)} --class_name {shlex.quote(class_name)}"
    lines = read_text(path, f"build the index with: python prepare_data.py index {names}").splitlines()
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
            named_kind=value.get("kind"),
            group=value.get("group"),
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

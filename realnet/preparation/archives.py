"""Lay out the published archives of VisA and Magnetic Tile Defects as this project reads them."""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.config.paths import is_inside
from realnet.data.folders import images_in
from realnet.data.groups import split_normal
from realnet.data.images import read_mask, write_image
from realnet.errors import UserError
from realnet.runtime.files import read_table, read_text
from realnet.runtime.progress import bar

SPLIT_FILE = "split_csv/1cls.csv"
VISA_FOLDERS = {"normal": "ok", "anomaly": "ko"}
MTD_NORMAL = "free"
SOLAR_LABELS, SOLAR_TRAIN_TENTHS = "labels.csv", 6
TRUTH_FOLDER = "ground_truth"
NUM_SHOWN = 10


@dataclass(frozen=True)
class FileCopy:
    """A file of an archive and its target; with ``is_id_mask``, its small class ids become 0 and 255."""

    source: Path
    target: Path
    is_id_mask: bool = False


def plan_visa(source: Path, target: Path) -> list[FileCopy]:
    """Plan VisA's layout: ``<class>/{train,test}/{ok,ko}/…`` and ``<class>/ground_truth/ko/…``, same names.

    Args:
        source: the published archive, unpacked: it holds ``<class>/Data/`` and ``split_csv/1cls.csv``.
        target: the image root.

    Raises:
        UserError: if the split file is missing or malformed, if files that it names do not exist, or if the target
            holds other files.
    """
    table = source / SPLIT_FILE
    if not table.is_file():
        raise UserError(f"{table} does not exist; --source must be the folder with VisA's classes and split_csv")
    rows = read_table(table, ("object", "split", "label", "image", "mask"))
    copies = [each for row in rows for each in _copies_visa(row, source, target)]
    return _checked(copies, target)


def plan_mtd(source: Path, target: Path, *, train_list: Path | None = None) -> list[FileCopy]:
    """Plan the class of Magnetic Tile Defects: ``train/good``, ``test/{good,<type>}`` and ``ground_truth/<type>``.

    Args:
        source: the published folder, which holds ``MT_<Type>/Imgs``.
        target: the class's folder.
        train_list: file that names the normal images to train on, one per line; None takes a fixed 80 % (see
            ``split_normal``).

    Raises:
        UserError: if there are no normal images, if the list names others, or if the target holds other files.
    """
    types = {path.name.removeprefix("MT_").lower(): path / "Imgs" for path in sorted(source.glob("MT_*"))}
    photographs = {name: [n for n in images_in(path) if _is_jpeg(n)] for name, path in types.items()}
    normal = photographs.get(MTD_NORMAL)
    if not normal:
        raise UserError(f"{source}/MT_Free/Imgs holds no *.jpg; --source must be the folder that holds MT_Free")
    train = set(split_normal(normal)[0] if train_list is None else _listed(train_list, normal))
    copies = []
    for kind, names in photographs.items():
        for name in names:
            split, folder = ("train" if name in train else "test", "good") if kind == MTD_NORMAL else ("test", kind)
            copies.append(FileCopy(types[kind] / name, target / split / folder / name))
            mask = (types[kind] / name).with_suffix(".png")
            if kind != MTD_NORMAL and mask.is_file():
                copies.append(FileCopy(mask, target / TRUTH_FOLDER / kind / mask.name))
    return _checked(copies, target)


def plan_solar(source: Path, target: Path) -> list[FileCopy]:
    """Plan the layout of the ELPV dataset of solar cells: ``<kind>/train/good``, ``<kind>/test/{good,defect}``.

    Good cells have a defect probability of 0, defective cells of 1; the others are left out. A hash of the names
    chooses about 60 % of the good cells for training.

    Args:
        source: the folder that holds ``labels.csv`` and ``images/``.
        target: the image root.

    Raises:
        UserError: if the labels are missing or malformed, if files that they name do not exist, or if the target holds
            other files.
    """
    table = source / SOLAR_LABELS
    if not table.is_file():
        raise UserError(f"{table} does not exist; --source must be the folder with it and images/")
    copies = []
    for number, line in enumerate(read_text(table).splitlines(), 1):
        match line.split():
            case [name, probability, ("mono" | "poly") as kind] if re.fullmatch(
                r"images/[\w.-]+", name
            ) and re.fullmatch(r"[\d.]+", probability):
                if split := _solar_split(Path(name).name, probability):
                    copies.append(FileCopy(source / name, target / kind / split / Path(name).name))
            case []:
                continue
            case _:
                raise UserError(f"{table}, line {number}: {line[:80]!r} is not: images/<file> <probability> mono|poly")
    if not copies:
        raise UserError(f"{table} lists no good and no defective cell; unpack the dataset again")
    return _checked(copies, target)


def _solar_split(name: str, probability: str) -> str | None:
    """Return the folder of a cell; None if it is neither certainly good nor certainly defective."""
    match float(probability):
        case 0.0:
            digest = int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16)
            return "train/good" if digest % 10 < SOLAR_TRAIN_TENTHS else "test/good"
        case 1.0:
            return "test/defect"
    return None


def copy_files(copies: Sequence[FileCopy], *, description: str) -> None:
    """Copy files to their targets, as hard links if possible; a target that is already complete is kept.

    Raises:
        UserError: if a file cannot be read or written.
    """
    for each in bar(copies, total=len(copies), description=description):
        try:
            each.target.parent.mkdir(parents=True, exist_ok=True)
            if each.is_id_mask:
                write_image(each.target, read_mask(each.source))
            else:
                _link(each.source.resolve(), each.target)
        except OSError as error:
            raise UserError(f"cannot write {each.target}: {error.strerror}; free space or check permissions") from error


def _copies_visa(row: dict[str, str], source: Path, target: Path) -> Iterable[FileCopy]:
    beyond = [row[name] for name in ("object", "split", "image", "mask") if row[name] and not is_inside(row[name])]
    if beyond:
        raise UserError(f"{source / SPLIT_FILE} names {beyond[0]!r}, outside the archive; unpack the archive again")
    folder, split = target / row["object"], row["split"].strip()
    if split not in {"train", "test"}:
        raise UserError(f"{source / SPLIT_FILE} has the split {split!r}; expected train or test")
    kind = VISA_FOLDERS.get(row["label"].strip())
    if kind is None:
        raise UserError(f"{source / SPLIT_FILE} has the label {row['label']!r}; expected {' or '.join(VISA_FOLDERS)}")
    image = source / row["image"]
    yield FileCopy(image, folder / split / kind / image.name)
    if row["mask"]:
        mask = source / row["mask"]
        yield FileCopy(mask, folder / TRUTH_FOLDER / kind / mask.name, is_id_mask=True)


def _is_jpeg(name: str) -> bool:
    return Path(name).suffix.lower() in {".jpg", ".jpeg"}


def _listed(path: Path, names: Sequence[str]) -> list[str]:
    """Return the images that a list names, with or without folder and suffix."""
    try:
        wanted = [Path(line.strip()).stem for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read --train-list {path}: {error}; give a text file with one name per line") from error
    by_stem = {Path(name).stem: name for name in names}
    unknown = [stem for stem in wanted if stem not in by_stem]
    if unknown or not wanted:
        raise UserError(
            f"--train-list {path}: {len(unknown)} of its {len(wanted)} images are not in MT_Free/Imgs"
            f"{_some(unknown)}; list names of normal images, one per line"
        )
    return [by_stem[stem] for stem in wanted]


def _checked(copies: list[FileCopy], target: Path) -> list[FileCopy]:
    absent = [str(each.source) for each in copies if not each.source.is_file()]
    if absent:
        raise UserError(f"{len(absent)} files of the archive do not exist{_some(absent)}; unpack the archive again")
    twice = [str(path) for path, number in Counter(each.target for each in copies).items() if number > 1]
    if twice:
        raise UserError(f"{len(twice)} files would be written twice{_some(twice)}; the archive's lists overlap")
    others = {path for path in target.rglob("*") if path.is_file()} - {each.target for each in copies}
    if others:
        raise UserError(f"{target} holds {len(others)} other files{_some(sorted(map(str, others)))}; remove them first")
    return copies


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:NUM_SHOWN])}{', …' if len(names) > NUM_SHOWN else ''})" if names else ""


def _link(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)

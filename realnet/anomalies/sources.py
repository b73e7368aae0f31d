"""Find the images that anomalies are made of: SDAS images, textures, defects (docs/method.md, Anomaly sources)."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from realnet.anomalies.real import find_real
from realnet.config import AnomalyConfig, AnomalyType, paths
from realnet.data.formats import is_image
from realnet.data.registry import OpenDataset
from realnet.errors import UserError
from realnet.inspection import findings as kinds
from realnet.inspection.check import inspect_files
from realnet.inspection.findings import Finding
from realnet.runtime.files import read_table

DTD_FOLDERS = ("images", "dtd/images", "dtd")
"""Where an archive of textures unpacks its images to."""
logger = logging.getLogger("realnet")


def find_sdas(dataset: str, class_name: str, keep: float = 1.0) -> list[Path]:
    """Return a class's SDAS images, sorted (docs/method.md, Anomaly sources).

    If ``sample.py`` finished the folder, these are the images in its manifest; otherwise all images in the folder.

    Args:
        dataset: name of the dataset.
        class_name: name of the class.
        keep: share of the images in the manifest to return, the best by their scores.

    Raises:
        UserError: if there are none, or none with scores for a share below 1; the message names the command that makes
            them.
    """
    folder = paths.sdas(dataset, class_name)
    command = f"python sample.py --dataset {shlex.quote(dataset)} --classes {shlex.quote(class_name)}"
    files, manifest = _image_files(folder, "*"), folder / paths.SDAS_MANIFEST
    is_sampled = (folder / paths.SDAS_SETTINGS).is_file()  # sample.py leaves other folders of images to their owner
    if is_sampled and manifest.is_file():
        rows = read_table(manifest, ["file"])
        listed = {row["file"] for row in (rows if keep == 1 else _best(rows, keep))}
        files = [file for file in files if file.name in listed]
        absent = sorted(listed - {file.name for file in files})
        if absent:
            logger.warning(
                "WARNING: %d images that %s lists are absent, such as %s; make them again with: %s",
                len(absent),
                manifest,
                absent[0],
                command,
            )
        if rows and not listed:
            raise UserError(
                f"anomalies.sdas_keep {keep:g} needs the scores of the images, and {manifest} has none; add them with: "
                f"{command}, or set anomalies.sdas_keep to 1"
            )
    elif keep < 1 and files:
        raise UserError(
            f"anomalies.sdas_keep {keep:g} needs the scores of the images, and {folder} has no {manifest.name} of "
            f"sample.py; finish it with: {command}, or set anomalies.sdas_keep to 1"
        )
    if not files:
        raise UserError(
            f"class {class_name!r} of {dataset} needs SDAS images, and {folder} holds none; make them with: {command}"
        )
    if is_sampled and not manifest.is_file():
        logger.warning(
            "WARNING: sampling of class %s is unfinished, with %d images so far; finish it with: %s",
            class_name,
            len(files),
            command,
        )
    return files


def _best(rows: Sequence[Mapping[str, str]], share: float) -> list[Mapping[str, str]]:
    """Return the best share of a manifest's rows, at least one; none if any has no rank."""
    if not all((row.get("rank") or "").isdigit() for row in rows):
        return []
    number = max(1, round(share * len(rows)))
    return sorted(rows, key=lambda row: int(row["rank"]))[:number]


def find_textures(root: Path) -> list[Path]:
    """Return the images of a DTD folder (``<root>/<texture>/*.jpg``), sorted (docs/method.md, Anomaly sources).

    The folder may also be one that the archive's ``dtd/images`` lies in or below, or one of images without folders.

    Raises:
        UserError: if there are none; the message says how to get them.
    """
    places = [(root, "*/*"), *((root / inside, "*/*") for inside in DTD_FOLDERS)]
    places += [(root.parent / "dtd/images", "*/*"), (root, "*")]
    files = next((files for place, pattern in places if (files := _image_files(place, pattern))), [])
    if not files:
        raise UserError(
            f"anomaly type dtd needs textures, and {root} holds none; unpack the Describable Textures Dataset there "
            "(https://www.robots.ox.ac.uk/~vgg/data/dtd), or set anomalies.dtd_root, or use the types sdas or self"
        )
    return files


def _image_files(folder: Path, pattern: str) -> list[Path]:
    """Return the image files without hidden ones, which killed processes leave behind."""
    found = (path for path in folder.glob(pattern) if path.is_file() and is_image(path))
    return sorted(path for path in found if not path.name.startswith("."))


def inspect_sources(dataset: OpenDataset, class_name: str, config: AnomalyConfig) -> list[Finding]:
    """Return the findings about the source images of a class's anomalies, from the headers and ends of the files."""
    finders: dict[AnomalyType, Callable[[], list[Path]]] = {
        "sdas": lambda: find_sdas(dataset.name, class_name, config.sdas_keep),
        "dtd": lambda: find_textures(Path(config.dtd_root)),
        "real": lambda: [file for pair in find_real(dataset, class_name) for file in pair],
    }
    found: list[Finding] = []
    for find in (find for kind, find in finders.items() if config.types.get(kind, 0) > 0):
        try:
            files = find()
        except UserError as error:
            found.append(Finding(kinds.NO_SOURCES, str(error)))
        else:
            found += inspect_files(files)
    return found

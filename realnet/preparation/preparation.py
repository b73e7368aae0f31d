"""The subcommands of ``prepare_data.py``: each function is one, and prints what it did and which command comes next."""

import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from realnet.anomalies.preview import contact_sheet
from realnet.anomalies.sources import inspect_sources
from realnet.config import RealNetConfig, paths
from realnet.data.depth import find_bits
from realnet.data.layout_file import NO_LAYOUT, read_layout
from realnet.data.registry import OpenDataset, open_dataset
from realnet.data.sheets import require_replaceable, write_sheet
from realnet.data.tiles import tiling_of
from realnet.errors import UserError, as_called_here
from realnet.inspection.check import inspect_class
from realnet.inspection.findings import fatal, report
from realnet.preparation.account import (
    account_text,
    take_account,
    take_account_of_told,
    write_account,
)
from realnet.preparation.archives import FileCopy, copy_files, plan_mtd, plan_solar, plan_visa
from realnet.preparation.layouts import LAYOUTS, LayoutName, check_name, recognise, register, require_layout
from realnet.preparation.problems import problems_of, settle
from realnet.preparation.summary import summary_table
from realnet.preparation.toy import is_complete, make_toy_dataset
from realnet.preparation.toy_large import is_complete as large_is_complete
from realnet.preparation.toy_large import make_large_toy
from realnet.runtime.lock import locked
from realnet.runtime.progress import bar, console


def index_images(dataset: OpenDataset, classes: Sequence[str], *, dry_run: bool = False) -> None:
    """Write the index of each class, and print a table of what it holds.

    Raises:
        UserError: if classes have no training images; the message names all of them.
    """
    print(summary_table(dataset.reindex(classes, write=not dry_run), dataset.image_root))
    if not dry_run:
        print(f"index      {paths.protocols(dataset.name)}")


def lay_out_visa(source: Path, *, dry_run: bool = False) -> None:
    """Lay out VisA's published archive in the image root of ``experiments/VisA/dataset.yaml``, and index it.

    Raises:
        UserError: if the archive is incomplete, or a file cannot be written.
    """
    dataset = open_dataset("VisA")
    _lay_out(dataset, plan_visa(source, dataset.image_root), dry_run=dry_run)


def lay_out_mtd(source: Path, *, train_list: Path | None = None, dry_run: bool = False) -> None:
    """Lay out Magnetic Tile Defects in the image root of ``experiments/MTD/dataset.yaml``, and index it.

    Raises:
        UserError: see ``plan_mtd``; also if a file cannot be written.
    """
    dataset = open_dataset("MTD")
    folder = dataset.image_root / dataset.classes[0]
    _lay_out(dataset, plan_mtd(source, folder, train_list=train_list), dry_run=dry_run)


def lay_out_solar(source: Path | None = None, *, dry_run: bool = False) -> None:
    """Lay out the solar cells of ELPV in the image root of ``experiments/solar/dataset.yaml``, and index them.

    Args:
        source: the folder that holds ``labels.csv``; None takes that of the installed package.
        dry_run: only print what would be done.

    Raises:
        UserError: if the package is not installed; see also ``plan_solar``.
    """
    dataset = open_dataset("solar")
    folder = source or _package_folder("elpv_dataset") / "data"
    print("license    ELPV dataset: CC BY-NC-SA 4.0, not for commercial use; cite Buerhop-Lutz et al., EU PVSEC 2018")
    _lay_out(dataset, plan_solar(folder, dataset.image_root), dry_run=dry_run)


def _package_folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise UserError(
            "the package elpv-dataset is not installed; install it with: pip install elpv-dataset (91 MB), or give the "
            "folder of its labels.csv as --source"
        )
    return Path(found.origin).parent


def add_dataset(name: str, source: Path, *, layout: str = "auto", force: bool = False, dry_run: bool = False) -> None:
    """Register a user's images as a dataset: write configs, an account and an index; the images stay where they are.

    Args:
        name: name of the dataset.
        source: folder of the images.
        layout: name of a layout, ``auto``, or the path of a layout file.
        force: overwrite existing configs of that name.
        dry_run: print the account, and write nothing.

    Raises:
        UserError: if the name is taken, if the images are in no known layout, or if something that may be a mask or a
            defect would be trained on; then nothing is written.
    """
    check_name(name, force=force)
    if not source.is_dir():
        raise UserError(f"--source {source} is not a folder; give the folder that holds the images")
    if layout == "auto" or layout in LAYOUTS:
        account = take_account(source, recognise(source, layout=cast(LayoutName, layout)), NO_LAYOUT)
    else:
        account = take_account_of_told(source, read_layout(Path(layout)))
    require_layout(paths.experiment(name), account.layout, force=force)
    found = account.found
    print(f"recognised {found.layout}: {LAYOUTS[found.layout].description}")
    print(account_text(account))
    problems = problems_of(account)
    if problems:
        raise UserError("\n".join([*problems, settle(account, source)]))
    dataset = found.as_dataset(name, account.masks_rule)
    indexes = dataset.reindex(found.classes, layout=account.layout, write=False)
    if any(entry.maskname for index in indexes.values() for entry in index.defects):
        print(f"masks      {account.masks_rule}")
    used = [found.image_root / e.filename for index in indexes.values() for e in index.all]
    bits, number = find_bits(used)
    if number:
        print(f"depth      {bits} bits are used in 16-bit files; the upper 8 of them are read")
    if not dry_run:
        with locked(paths.experiment(name)):
            write_account(account, paths.account(name))
            print(f"account    {paths.account(name)}")
            dataset.reindex(found.classes, layout=account.layout)
            print(f"index      {paths.protocols(name)}")
            # the dataset exists from here on: last, so that a killed command leaves nothing that looks complete
            folder = register(
                name, found, layout=account.layout, masks=account.masks_rule, image_bits=bits, force=force
            )
            print(f"configs    {folder}")
    print(summary_table(indexes, dataset.image_root))
    quoted = shlex.quote(name)
    _advise(
        f"next       python prepare_data.py preview --dataset {quoted}",
        f"then       python train_diffusion.py --dataset {quoted}; or, without a diffusion model:",
        f"           python train_realnet.py --dataset {quoted} --set 'anomalies.types={{normal: 0.5, self: 0.5}}'",
    )


def preview_classes(
    dataset: OpenDataset, classes: Sequence[str], config: RealNetConfig, *, num_images: int, output: Path | None = None
) -> None:
    """Draw a contact sheet of each class, to ``<output>/<class>.png`` or next to the class's heatmaps.

    Raises:
        UserError: if a class has no images, one cannot be read, or a sheet would replace a file of another maker.
    """
    if output:
        require_replaceable(output / f"{class_name}.png" for class_name in classes)
    for class_name in classes:
        with console():
            sheet = contact_sheet(
                dataset,
                class_name,
                config.anomalies,
                image_size=config.image_size,
                num_images=num_images,
                seed=config.seed,
                tiling=tiling_of(config),
            )
        default = paths.output(dataset.name, "realnet", "vis", class_name) / "preview.png"
        path = output / f"{class_name}.png" if output else default
        write_sheet(path, sheet)
        print(f"written    {path}")


def check_dataset(dataset: OpenDataset, classes: Sequence[str], config: RealNetConfig) -> None:
    """Decode every image and mask of the classes, and print all findings.

    Raises:
        UserError: if a finding is fatal.
    """
    found = []
    for class_name in bar(classes, total=len(classes), description="classes"):
        found += inspect_class(dataset, class_name, decode=True)
        found += inspect_sources(dataset, class_name, config.anomalies)
    if found:
        _advise(report(list(dict.fromkeys(found)), dataset.name))
    problems = fatal(found)
    if problems:
        raise UserError(f"{dataset.name} has {len(problems)} fatal findings, listed above with their repair")
    print(f"sound      {dataset.name}: {', '.join(classes)}")


def draw_toy(name: Literal["toy", "toy-large"] = "toy", *, force: bool = False, dry_run: bool = False) -> None:
    """Draw a synthetic dataset, unless it is complete and ``force`` is False."""
    root, is_large = open_dataset(name).image_root, name == "toy-large"
    if (large_is_complete if is_large else is_complete)(root) and not force:
        print(f"complete   {root}")
    elif dry_run:
        print(f"would draw {root}")
    else:
        (make_large_toy if is_large else make_toy_dataset)(root)
        print(f"written    {root}")


def _lay_out(dataset: OpenDataset, copies: Sequence[FileCopy], *, dry_run: bool) -> None:
    print(f"{len(copies)} files go to {dataset.image_root}")
    if dry_run:
        return
    copy_files(copies, description=dataset.name)
    placed = {each.target.relative_to(dataset.image_root).parts[0] for each in copies}
    index_images(dataset, [name for name in dataset.classes if name in placed])
    _advise(f"next       python prepare_data.py check --dataset {shlex.quote(dataset.name)}")


def _advise(*lines: str) -> None:
    print(*map(as_called_here, lines), sep="\n")

"""Check that a dataset's files are fit for training and evaluation, before either starts."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from realnet.config import MaskRule
from realnet.data.depth import find_bits
from realnet.data.index import ClassIndex, Entry
from realnet.data.layout_file import stored_layout
from realnet.data.registry import OpenDataset
from realnet.data.roles import roles_in_class
from realnet.data.tiff import has_pages
from realnet.errors import UserError
from realnet.inspection import findings as kinds
from realnet.inspection.duplicates import equal_keys, same_content
from realnet.inspection.findings import Finding, fatal, report
from realnet.inspection.looks import Look, look_at_images, look_at_masks
from realnet.inspection.repeats import find_repeats, with_masks

logger = logging.getLogger(__name__)

Looks = Mapping[Path, Look]

NUM_SHOWN = 20
"""Most files that an error message lists per kind of finding."""

FEW_IMAGES = 100
"""Normal training images of a class below which ``advise`` logs a warning (data/README.md)."""


def require_sound(
    dataset: OpenDataset, classes: Sequence[str], *, with_test: bool = True, sources: Iterable[Path] = ()
) -> None:
    """Check the classes' files before any work, and log findings that are not fatal as a warning.

    This takes a fraction of a millisecond per file: it reads the header and the end of each file, and the whole
    content only of files that may be copies of each other. ``prepare_data.py check`` decodes every file.

    Args:
        dataset: the dataset; a missing index is built but not written.
        classes: the classes to check.
        with_test: also check the test images and their masks, and that none repeats a defect to train on.
        sources: further images that training reads, such as SDAS images.

    Raises:
        UserError: if there are fatal findings; the message groups them by kind.
    """
    found = [each for name in classes for each in inspect_class(dataset, name, with_test=with_test)]
    found += inspect_files(sources)
    problems = fatal(found)
    if problems:
        raise UserError(report(problems, dataset.name, limit=NUM_SHOWN))
    if found:
        logger.warning(report(found, dataset.name, limit=NUM_SHOWN))


def advise(entries: Iterable[Entry]) -> None:
    """Log advice for classes with fewer than ``FEW_IMAGES`` training images."""
    numbers = Counter(entry.class_name for entry in entries)
    few = ", ".join(f"{name} ({number})" for name, number in numbers.items() if number < FEW_IMAGES)
    if few:
        logger.warning(
            "few training images (below %d): %s; more good images help most, train.augment=true finds defects more "
            "exactly if flipped and rotated images would be normal too, and fewer train.num_steps reduce overfitting "
            "(data/README.md)",
            FEW_IMAGES,
            few,
        )


def inspect_class(
    dataset: OpenDataset, class_name: str, *, with_test: bool = True, decode: bool = False
) -> list[Finding]:
    """Return the findings about a class's images and masks.

    Args:
        dataset: the dataset; a missing index is built but not written.
        class_name: one of its classes; it may have no images.
        with_test: also inspect the test images and their masks.
        decode: decode every file. This also finds damage anywhere in a file, masks without a defect, and equal
            images in different files.
    """
    try:
        index = dataset.index(class_name, write=False)
    except UserError as error:
        return [Finding(kinds.ABSENT, str(error))]
    if not index.train:
        return [Finding(kinds.ABSENT, f"{class_name}: its index lists no training images")]
    root, test = dataset.image_root, index.test if with_test else ()
    defects = [entry for entry in (*test, *index.real) if entry.label]
    images = look_at_images((root / entry.filename for entry in (*index.train, *test, *index.real)), decode=decode)
    if not any(look.exists for look in images.values()):
        return [Finding(kinds.MOVED, f"{class_name}: {len(images)} images that its index names are not in {root}")]
    rule = dataset.config.masks
    masks = look_at_masks((root / name for name in _mask_names(defects)), rule, decode=decode)
    trained = dict.fromkeys(root / entry.filename for entry in index.train)
    return [
        *_unusable({**images, **masks}),
        *(Finding(kinds.MASK_LIKE, str(path)) for path in trained if images[path].is_mask_like),
        *_about_masks(root, class_name, defects, {**images, **masks}),
        *_odd_masks(class_name, masks, rule),
        *(_odd_files(class_name, list(images), dataset.config.image_bits) if decode else ()),
        *_copies(root, {"train": index.train, "test": test, "real": index.real}, images),
        *(_repeats(dataset, index) if with_test and index.real else ()),
        *_views(class_name, (*index.train, *index.real), test),
        *_on_disk(dataset, class_name, index, with_test=with_test),
    ]


def inspect_files(files: Iterable[Path], *, decode: bool = False) -> list[Finding]:
    """Return a finding for each image file that is missing, unreadable or truncated."""
    return list(_unusable(look_at_images(files, decode=decode)))


def _unusable(looks: Looks) -> Iterator[Finding]:
    for path, look in looks.items():
        if look.size is None:
            yield Finding(kinds.UNREADABLE if look.exists else kinds.MISSING, str(path))


def _about_masks(root: Path, class_name: str, defects: Sequence[Entry], looks: Looks) -> Iterator[Finding]:
    masked = list(_mask_names(defects))
    if masked and len(masked) < len(defects):
        number = len(defects) - len(masked)
        yield Finding(kinds.UNMASKED, f"{class_name}: {number} of {len(defects)} defects have no mask")
    for entry in defects:
        if entry.maskname is None:
            continue
        mask, image = looks[root / entry.maskname], looks[root / entry.filename]
        if mask.size and image.size and mask.size != image.size:
            sizes = f"{_text(mask.size)}, its image {entry.filename} is {_text(image.size)}"
            yield Finding(kinds.MASK_SIZE, f"{root / entry.maskname} is {sizes}")
        if mask.share == 0:
            yield Finding(kinds.EMPTY_MASK, str(root / entry.maskname))


def _odd_masks(class_name: str, masks: Looks, rule: MaskRule) -> Iterator[Finding]:
    """Yield what makes it likely that the masks mean something else than the rule says, one finding a reason."""
    is_open = rule.channel == "colour" and rule.above == 0
    odd = {
        kinds.LARGE_MASK: [path for path, look in masks.items() if look.share is not None and look.share > 0.5],
        kinds.JPEG_MASK: [path for path, look in masks.items() if look.is_lossy and is_open],
        kinds.GREY_MASK: [p for p, look in masks.items() if look.num_levels > 2 and is_open and not look.is_lossy],
    }
    for kind, paths in odd.items():
        if paths:
            yield Finding(kind, f"{class_name}: {len(paths)} of {len(masks)}, such as {paths[0]} ({rule})")


def _odd_files(class_name: str, files: Sequence[Path], image_bits: int) -> Iterator[Finding]:
    """Yield images whose values use other bits than the dataset's, and files with several pages."""
    bits, number = find_bits(files)
    if number and bits != image_bits:
        yield Finding(kinds.DEPTH, f"{class_name}: {bits} bits are used, image_bits is {image_bits}")
    tiffs = (path for path in files if path.suffix.lower() in {".tif", ".tiff"} and path.is_file())
    yield from (Finding(kinds.PAGES, str(path)) for path in tiffs if has_pages(path.read_bytes()))


def _copies(root: Path, parts: Mapping[str, Sequence[Entry]], looks: Looks) -> Iterator[Finding]:
    """Yield images of equal content: equal pixels if all images were decoded, else equal bytes.

    The parts are ``train``, ``test`` and ``real``.
    """
    named = [(part, root / entry.filename) for part, entries in parts.items() for entry in entries]
    places = [(part, path) for part, path in named if looks[path].size is not None]
    is_decoded = all(looks[path].pixels for _, path in places)
    groups = (
        equal_keys(range(len(places)), lambda number: looks[places[number][1]].pixels)
        if is_decoded
        else same_content([path for _, path in places])
    )
    for group in groups:
        by_part = {wanted: [places[n][1] for n in group if places[n][0] == wanted] for wanted in parts}
        trained = by_part["train"] + by_part["real"]
        yield from (Finding(kinds.LEAK, f"{path} equals {trained[0]}") for path in by_part["test"] if trained)
        for path in by_part["train"] if by_part["real"] else ():
            yield Finding(kinds.NORMAL_AND_DEFECT, f"{path} equals {by_part['real'][0]}")
        for same in by_part.values():
            yield from (Finding(kinds.DUPLICATE, f"{path} equals {same[0]}") for path in same[1:])


def _repeats(dataset: OpenDataset, index: ClassIndex) -> Iterator[Finding]:
    """Yield test images that show what a defect to train on shows."""
    root, config = dataset.image_root, dataset.config
    real = with_masks(root, index.real)
    tested, normal = ([root / entry.filename for entry in part] for part in (index.test, index.train))
    for path, same in find_repeats(real, tested, normal, rule=config.masks, bits=config.image_bits):
        yield Finding(kinds.LEAK, f"{path} shows the defect of {same}, which is to be trained on")


def _views(class_name: str, train: Sequence[Entry], test: Sequence[Entry]) -> Iterator[Finding]:
    """Yield the parts with images in both splits, if there are any."""
    known = {entry.group: entry.filename for entry in train if entry.group}
    both = [f"{entry.filename}, {known[entry.group]}" for entry in test if entry.group in known]
    if both:
        yield Finding(kinds.VIEWS, f"{class_name}: {len(both)} test images, such as {both[0]}")


def _on_disk(dataset: OpenDataset, class_name: str, index: ClassIndex, *, with_test: bool) -> Iterator[Finding]:
    """Yield what the class's folder holds and the index does not use: masks without an image, and images."""
    root = dataset.image_root
    if not (root / class_name).is_dir():  # a hand-written index may name images in other folders
        return
    used = {name for entry in index.all for name in (entry.filename, entry.maskname)}
    roles = roles_in_class(root, class_name, stored_layout(dataset.name), dataset.config.masks)
    spare = [role for role in roles if role.file not in used]
    if with_test:
        orphans = (role for role in spare if role.role == "mask" and role.image is None)
        yield from (Finding(kinds.ORPHAN, f"{root / role.file}: {role.reason}") for role in orphans)
    fresh = (role for role in spare if role.role in {"train", "good", "defect", "real"})
    yield from (Finding(kinds.OUTDATED, str(root / role.file)) for role in fresh)
    ignored = Counter((Path(role.file).parent, role.reason) for role in spare if role.role in {"unused", "unclear"})
    for (folder, reason), count in ignored.items():
        yield Finding(kinds.IGNORED, f"{root / folder}: {count} unused, {reason}")


def _mask_names(entries: Iterable[Entry]) -> Iterator[str]:
    return (entry.maskname for entry in entries if entry.label and entry.maskname is not None)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

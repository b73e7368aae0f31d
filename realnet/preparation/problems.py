"""What stands against training on a folder's images as they are understood, and how the user settles it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from realnet.data.images import is_drawn
from realnet.data.layout_file import ROLES
from realnet.data.roles import FileRole
from realnet.data.words import may_be_good_or_bad, names_defect, read_name
from realnet.errors import UserError, printable
from realnet.inspection.mask_looks import find_mask_looks
from realnet.preparation.account import NUM_EXAMPLES, USED, Account, meaning

LABEL_FILES = frozenset({".json", ".txt", ".xml"})
"""Endings of files in which other tools keep boxes and outlines."""


def problems_of(account: Account) -> list[str]:
    """Return what stands against training, each with three examples; none if the account is sound."""
    root, roles = account.found.image_root, account.roles
    guessed = [role for role in roles if not role.is_told]
    looks = find_mask_looks(root / role.file for role in guessed if role.role in USED)
    found = {
        "images that look like masks but would be trained or tested on": [r for r in guessed if root / r.file in looks],
        "images whose names leave open what they are": [r for r in guessed if r.role == "unclear"],
        "masks whose image is unknown or that are several for one image": [
            r for r in roles if r.role == "mask" and r.image is None
        ],
        "good images whose mask shows a defect": list(_good_with_defects(account)),
        "defects to train on without a mask": list(_without_mask(roles)),
        "images in folders of no class": _outside(account),
    }
    places = {title: [f"{role.file} ({meaning(role)})" for role in files] for title, files in found.items()}
    places["folders of test images that hold none"] = list(_empty_kinds(account))
    flat = _flat_classes(account)
    places["classes named for defects"] = [name for name in flat if names_defect(name)]
    places["folders that may be classes, or good and bad products"] = [n for n in flat if may_be_good_or_bad(n)]
    places["folders that would be classes, but have no training folder as the others have"] = _bare_classes(account)
    places["folders that would become one class, but look like several"] = _merged_classes(account)
    texts = (_problem(title, files) for title, files in places.items())
    return [text for text in texts if text]


def _good_with_defects(account: Account) -> Iterator[FileRole]:
    roles = account.roles
    good = {role.file for role in roles if role.role in {"train", "good"}}
    for role in roles:
        if role.role == "mask" and role.image in good and not role.is_told:
            with suppress(UserError):
                if is_drawn(account.found.image_root / role.file, account.masks_rule):
                    yield role


def _without_mask(roles: Sequence[FileRole]) -> Iterator[FileRole]:
    masked = {role.image for role in roles if role.role == "mask" and not role.reason}
    yield from (role for role in roles if role.role == "real" and role.file not in masked)


def _outside(account: Account) -> list[FileRole]:
    """Return the images in folders of no class, but for those that their folders' names call spare."""
    folders = ((role, PurePosixPath(role.file).parts[:-1]) for role in account.outside if not role.is_told)
    return [role for role, parts in folders if parts and not any(read_name(part).is_spare for part in parts)]


def _merged_classes(account: Account) -> list[str]:
    """Return the folders inside a class that are named as classes are: each has training images of its own."""
    found = set()
    for role in account.roles:
        parts = PurePosixPath(role.file).parts[1:-1]
        split = next((number for number, part in enumerate(parts) if read_name(part).split == "train"), 0)
        found |= {"/".join(parts[: split + 1])} if role.role == "train" and not role.is_told and split else set()
    named = {path: [part for part in path.split("/")[:-1] if read_name(part).text] for path in found}
    return sorted(found) if len(set(map(tuple, named.values()))) > 1 else []


def settle(account: Account, source: Path) -> str:
    """Return how a layout file says what names leave open, with the folders of this account's open images."""
    is_inside = account.found.image_root != source
    open_files = [role for role in account.roles if role.role == "unclear"] + _outside(account)
    paths = (PurePosixPath(*PurePosixPath(role.file).parts[is_inside:]) for role in open_files)
    globs = list(dict.fromkeys((path.parent / "*").as_posix() for path in paths)) or ["NG/*", "extra/*"]
    lines = [f"\n  {json.dumps(glob, ensure_ascii=False)}: ROLE" for glob in globs[:NUM_EXAMPLES]]
    labels = [ending for ending in sorted(account.others) if open_files and ending in LABEL_FILES]
    read = f"\n{', '.join(labels)} files are not read: a mask is an image" if labels else ""
    return printable(
        "nothing is written. Say what these files are in a layout file, a glob and its role a line; give it with "
        f"--layout FILE:{''.join(lines)}\nROLE is one of {ROLES}; a folder that holds several takes a line for each, "
        f'such as "test/ok_*"; globs begin below --source, and the first that fits a file counts{read}'
    )


def _empty_kinds(account: Account) -> Iterator[str]:
    """Yield test folders without any image, for which some were meant."""
    root = account.found.image_root
    used = {parent for role in account.roles for parent in PurePosixPath(role.file).parents}
    for name in account.found.classes:
        for folder in sorted(path for path in (root / name).rglob("*") if path.is_dir()):
            below = folder.relative_to(root)
            names = [read_name(part) for part in below.parts[1:]]
            is_test = any(one.split == "test" for one in names) and not any(one.is_truth for one in names)
            if is_test and PurePosixPath(below.as_posix()) not in used and not below.name.startswith("."):
                yield below.as_posix()


def _flat_classes(account: Account) -> list[str]:
    """Return the classes that are nothing but a folder of images each, unless the layout file says so."""
    if account.found.layout != "folders":
        return []
    return [
        name
        for name, roles in account.by_class.items()
        if not any(role.is_told or role.role in {"good", "defect"} for role in roles)
    ]


def _bare_classes(account: Account) -> list[str]:
    """Return the flat folders beside classes with training and test images: nothing says that they hold good ones."""
    if account.found.layout != "mvtec":
        return []
    guessed = {name: [role for role in roles if not role.is_told] for name, roles in account.by_class.items()}
    return [name for name, roles in guessed.items() if roles and not any(map(_is_below_named_folder, roles))]


def _is_below_named_folder(role: FileRole) -> bool:
    return any(read_name(part).has_role for part in PurePosixPath(role.file).parts[1:-1])


def _problem(title: str, places: Sequence[str]) -> str:
    if not places:
        return ""
    shown = [f"\n  {place}" for place in places[:NUM_EXAMPLES]]
    hidden = len(places) - len(shown)
    return f"{title}: {len(places)}" + "".join(shown) + (f"\n  … and {hidden} more" if hidden else "")

"""The account of a folder: what each image file in it becomes."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from realnet.config import MaskRule
from realnet.data.folders import files_below
from realnet.data.formats import is_image
from realnet.data.images import NON_ZERO
from realnet.data.layout_file import Layout
from realnet.data.mask_rules import find_mask_rule
from realnet.data.roles import FileRole, roles_in_class
from realnet.data.words import read_name
from realnet.errors import UserError, printable
from realnet.inspection.mask_looks import find_mask_looks
from realnet.preparation.layouts import Recognised, as_one_class, recognise
from realnet.runtime.files import whole_file

NUM_EXAMPLES = 3
USED = frozenset({"train", "good", "defect", "real"})


@dataclass(frozen=True)
class Account:
    """What each image file below a source becomes.

    Attributes:
        found: the classes and where they are.
        by_class: the roles of each class's files.
        outside: the files in no class's folder.
        others: the number of files that are no images, by ending.
        layout: what the user says, and what the pixels say: folders that hold nothing but masks.
        masks_rule: which pixels of the masks are defects.
    """

    found: Recognised
    by_class: Mapping[str, Sequence[FileRole]]
    outside: Sequence[FileRole]
    others: Mapping[str, int]
    layout: Layout
    masks_rule: MaskRule

    @property
    def roles(self) -> list[FileRole]:
        """Return the roles of all files."""
        return [*(role for roles in self.by_class.values() for role in roles), *self.outside]


def take_account(source: Path, found: Recognised, layout: Layout) -> Account:
    """Say what each image file below a source becomes: by the layout, by names, and of unknown folders by the pixels.

    Args:
        source: the folder that the user gave.
        found: the classes in it.
        layout: globs below the image root.
    """
    by_class = _roles(found, layout)
    masks = _folders_of_masks(found.image_root, [role for roles in by_class.values() for role in roles])
    if masks:
        layout = Layout({**layout.roles, **{f"{folder}/*": "mask" for folder in masks}}, layout.group)
        by_class = _roles(found, layout)
    used = [role for roles in by_class.values() for role in roles if role.role == "mask" and not role.reason]
    rule = find_mask_rule([found.image_root / role.file for role in used])
    if rule != NON_ZERO:
        by_class = _roles(found, layout, rule)
    known = {role.file for roles in by_class.values() for role in roles}
    below = source.relative_to(found.image_root) if source.is_relative_to(found.image_root) else Path()
    files = [(below / file).as_posix() for file in files_below(source)]
    rest = [file for file in files if file not in known]
    images = {file for file in rest if is_image(found.image_root / file)}
    outside = [FileRole(file, "unused", reason="in no class's folder") for file in rest if file in images]
    others = Counter(PurePosixPath(file).suffix.lower() for file in rest if file not in images)
    return Account(found, by_class, outside, others, layout, rule)


def take_account_of_told(source: Path, layout: Layout) -> Account:
    """Say what each image file becomes where a layout file gives globs below ``source``.

    The folders in ``source`` are classes if they are named as such and each has images to train on.

    Raises:
        UserError: if a glob fits no file.
    """
    idle = layout.idle(files_below(source))
    if idle:
        raise UserError(
            f"no file in {source} fits {', '.join(map(repr, idle))} of the layout file; globs begin below --source, * "
            "stands for a part of one name, and ** for any folders"
        )
    with suppress(UserError):
        found = recognise(source)
        account = _of_used_classes(take_account(source, found, _below_root(found, source, layout)))
        is_outside = any(layout.role_of(role.file) not in {None, "unused"} for role in account.outside)
        is_trained = all(any(role.role == "train" for role in roles) for roles in account.by_class.values())
        if is_trained and not is_outside:
            return account
    return take_account(source, as_one_class(source), layout.below("*"))


def _below_root(found: Recognised, source: Path, layout: Layout) -> Layout:
    """Return a layout of globs below ``source`` as one of globs below the image root."""
    return layout if found.image_root == source else layout.below("*")


def _of_used_classes(account: Account) -> Account:
    """Leave out classes of which the layout file uses nothing."""
    used = {name: roles for name, roles in account.by_class.items() if not all(map(_is_told_unused, roles))}
    if len(used) == len(account.by_class):
        return account
    spare = [role for name, roles in account.by_class.items() if name not in used for role in roles]
    found = replace(account.found, classes=tuple(used), is_whole_root=False)
    return replace(account, found=found, by_class=used, outside=[*account.outside, *spare])


def _is_told_unused(role: FileRole) -> bool:
    return role.is_told and role.role == "unused"


def _roles(found: Recognised, layout: Layout, rule: MaskRule = NON_ZERO) -> dict[str, list[FileRole]]:
    return {name: roles_in_class(found.image_root, name, layout, rule) for name in found.classes}


def _folders_of_masks(root: Path, roles: Sequence[FileRole]) -> list[str]:
    """Return the folders without a word on their images, all of which look like masks."""
    by_folder: dict[str, list[FileRole]] = defaultdict(list)
    for role in roles:
        if role.role in {*USED, "unclear", "unused"} and not role.is_told:
            by_folder[PurePosixPath(role.file).parent.as_posix()].append(role)
    silent = {
        folder: files
        for folder, files in by_folder.items()
        if len(PurePosixPath(folder).parts) > 1 and not read_name(PurePosixPath(folder).name).has_role
    }
    looks = find_mask_looks(root / role.file for files in silent.values() for role in files[:1])
    suspects = {folder: files for folder, files in silent.items() if root / files[0].file in looks}
    looks = find_mask_looks(root / role.file for files in suspects.values() for role in files)
    return [folder for folder, files in suspects.items() if all(root / role.file in looks for role in files)]


def meaning(role: FileRole) -> str:
    """Return what a file becomes, in words."""
    match role.role:
        case "good":
            return "test good"
        case "defect":
            return f"test {role.kind}"
        case "real":
            return f"train {role.kind}"
        case "mask" if role.image:
            return f"mask of {role.image}" if not role.reason else f"unused mask: {role.reason}"
        case _:
            return f"{role.role}: {role.reason}" if role.reason else role.role


def account_text(account: Account) -> str:
    """Return the account as people read it: counts and three examples of each meaning, class by class."""
    lines = []
    several = len(account.by_class) > 1
    for name, roles in account.by_class.items():
        lines += [f"class {name}"] if several else []
        lines += [f"{'  ' if several else ''}{line}" for line in _counts(roles)]
    lines += _counts(account.outside)
    if account.others:
        endings = ", ".join(
            f"{number} {ending or 'without ending'}" for ending, number in sorted(account.others.items())
        )
        lines.append(f"no images: {endings}")
    groups = {role.group for role in account.roles if role.group and role.role in {"train", "good"}}
    if groups:
        example = sorted(role.file for role in account.roles if role.group == min(groups))
        lines.append(f"{len(groups)} parts with several images each stay together, such as {', '.join(example[:3])}")
    return printable("\n".join(lines))


def _counts(roles: Iterable[FileRole]) -> Iterator[str]:
    files: dict[str, list[FileRole]] = defaultdict(list)
    for role in roles:
        files["mask" if role.role == "mask" and role.image and not role.reason else meaning(role)].append(role)
    for title, same in files.items():
        examples = [f"{role.file} of {role.image}" if title == "mask" else role.file for role in same[:NUM_EXAMPLES]]
        yield f"{len(same):>6} {title}: {', '.join(examples)}{', …' if len(same) > NUM_EXAMPLES else ''}"


def write_account(account: Account, path: Path) -> None:
    """Write what every file becomes, a line each: its path below the image root, the class, and the meaning.

    Raises:
        UserError: if it cannot be written.
    """
    with whole_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "class", "becomes", "group"))
        for name, roles in (*account.by_class.items(), ("", account.outside)):
            table.writerows((role.file, name, meaning(role), role.group or "") for role in roles)

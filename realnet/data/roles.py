"""Say of every image file of a class what it becomes: trained on, tested on, a mask, or unused and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from realnet.config import MaskRule
from realnet.data.folders import files_below
from realnet.data.formats import is_image
from realnet.data.groups import groups_of, split_normal
from realnet.data.images import NON_ZERO, is_drawn
from realnet.data.layout_file import NO_LAYOUT, Layout
from realnet.data.pairing import Place, masks_by_name, pair_masks
from realnet.data.words import names_defect, names_derived, names_good, names_test

Role = Literal["train", "normal", "good", "defect", "real", "mask", "unused", "unclear"]
UNKNOWN = "does not say whether it is good"
UNCLEAR_MASK = "its mask is of one colour, and not black, or shows something that the other masks' rule leaves out"
NO_KIND = "neither a folder nor a mask says its kind; expected test/good or test/<kind>"


@dataclass(frozen=True, slots=True)
class FileRole:
    """What an image file becomes.

    Attributes:
        file: its path below the image root, with forward slashes.
        role: ``real``: a defect to train on; ``unclear``: the names do not tell; ``normal`` (good, not yet split) stays
            inside this module.
        kind: the kind of defect; "" if there is none.
        image: of a mask, the image that it belongs to; None if there is none.
        reason: why it is unused or unclear, or why a mask is not used.
        group: the part that it shows, if several images show the same; None otherwise.
        is_told: whether a layout file says so.
    """

    file: str
    role: Role
    kind: str = ""
    image: str | None = None
    reason: str = ""
    group: str | None = None
    is_told: bool = False


def roles_in_class(
    root: Path, class_name: str, layout: Layout = NO_LAYOUT, masks_rule: MaskRule = NON_ZERO
) -> list[FileRole]:
    """Return what each image file of a class becomes, in natural order of the paths.

    The names of folders and files decide, at any depth, in upper or lower case and in several languages (``words``);
    what the layout says comes first. Files are opened only where their ending does not say whether they are images, and
    masks where nothing but their pixels says whether their image is good.
    """
    folder = root / class_name
    files = [file for file in files_below(folder) if is_image(folder / file)]
    told = {file: role for file in files if (role := layout.role_of(f"{class_name}/{file}"))}
    places = {file: Place(file) for file in files}
    masks = masks_by_name(place for file, place in places.items() if file not in told)
    masks |= {file for file, role in told.items() if role == "mask"}
    rules = _Rules.of(
        (place for file, place in places.items() if file not in masks and file not in told),
        has_good_test="test good" in told.values(),
    )
    roles = {
        file: _told(file, told[file]) if file in told else rules.role_of(place)
        for file, place in places.items()
        if file not in masks
    }
    pairs = _roles_of_masks(places, masks, roles, set(told), is_flat=rules.is_flat)
    roles = _with_masked(roles, pairs, folder, masks_rule, is_flat=rules.is_flat)
    both = roles | {file: replace(pair, is_told=file in told) for file, pair in pairs.items()}
    named = [_below(class_name, both[file]) for file in files]
    return _split(named, layout)


def _roles_of_masks(
    places: Mapping[str, Place], masks: set[str], roles: Mapping[str, FileRole], told: set[str], *, is_flat: bool
) -> dict[str, FileRole]:
    pairs = pair_masks(
        [place for file, place in places.items() if file in masks],
        [place for file, place in places.items() if file not in masks],
        defects={
            file for file, role in roles.items() if role.role in {"defect", "real"} or role.reason == NO_KIND or is_flat
        },
        unused={file for file, role in roles.items() if role.role == "unused"},
        told=told,
    )
    return {file: FileRole(file, "mask", image=pair.image, reason=pair.reason) for file, pair in pairs.items()}


def _with_masked(
    roles: Mapping[str, FileRole], masks: Mapping[str, FileRole], folder: Path, rule: MaskRule, *, is_flat: bool
) -> dict[str, FileRole]:
    """Let masks say what images are of which no folder does: a defect if one is drawn, else good.

    These are the images of a flat class, and test images in no folder of their own; of the latter, those without a mask
    are good if others have one that shows a defect.
    """
    in_test = {file for file, role in roles.items() if role.reason == NO_KIND}
    unknown = in_test | ({file for file, role in roles.items() if role.role == "normal"} if is_flat else set())
    drawn = {mask.image: is_drawn(folder / mask.file, rule) for mask in masks.values() if mask.image in unknown}
    masked = {file for file, is_defect in drawn.items() if is_defect}
    good = in_test - masked if in_test & masked else set()
    changed = {
        **{file: FileRole(file, "good") for file in good},
        **{file: FileRole(file, "defect", "defect") for file in masked if file},
        **{
            file: FileRole(file, "unclear", reason=UNCLEAR_MASK)
            for file, found in drawn.items()
            if file and found is None
        },
    }
    return {**roles, **changed}


def _told(file: str, role: str) -> FileRole:
    half, _, kind = role.partition(" ")
    if kind and not names_good(kind):  # <kind> may stand for a folder called OK
        return FileRole(file, "defect" if half == "test" else "real", kind, is_told=True)
    known: dict[str, Role] = {"train": "train", "normal": "normal", "test": "good"}
    reason = "" if half in known else "the layout file says so"
    return FileRole(file, known.get(half, "unused"), reason=reason, is_told=True)


def _below(class_name: str, role: FileRole) -> FileRole:
    image = None if role.image is None else f"{class_name}/{role.image}"
    return replace(role, file=f"{class_name}/{role.file}", image=image)


def _split(roles: Sequence[FileRole], layout: Layout) -> list[FileRole]:
    """Group the good images by part, and split those that come without a split if there are defects to test on."""
    groups = groups_of([role.file for role in roles if role.role in {"train", "good", "normal"}], layout)
    normal = [role.file for role in roles if role.role == "normal"]
    has_defects = any(role.role == "defect" for role in roles)
    for_test = set(split_normal(normal, groups)[1] if has_defects else ())
    if layout.group and any(role.role == "real" for role in roles):  # other photographs of its part say so, too
        groups = groups_of([role.file for role in roles if role.role not in {"mask", "unused", "unclear"}], layout)
    halves: dict[bool, Role] = {True: "good", False: "train"}
    return [
        replace(
            role,
            role=halves[role.file in for_test] if role.role == "normal" else role.role,
            group=groups.get(role.file),
        )
        for role in roles
    ]


@dataclass(frozen=True)
class _Rules:
    """What the names of a class's folders and files mean together: which kinds of folders there are."""

    found: frozenset[str]

    @classmethod
    def of(cls, places: Iterable[Place], *, has_good_test: bool = False) -> "_Rules":
        found = {"test"} if has_good_test else set()
        for place in places:
            if any(name.is_derived or name.is_spare for name in place.names):
                continue
            split, quality, others = _said_by(place)
            open_word = "other" if others else "direct"
            found |= {split, f"{quality or open_word} {split}"} if split else {quality or open_word}
            found |= set() if split else {"named test" if names_test(place.stem) else "not named test"}
        return cls(frozenset(found))

    @property
    def is_flat(self) -> bool:
        """Tell whether no folder says what its images are."""
        return not self.found - {"direct", "named test", "not named test"}

    def role_of(self, place: Place) -> FileRole:
        """Return what an image that is no mask becomes."""
        split, quality, others = _said_by(place)
        if any(name.is_derived for name in place.names) or names_derived(place.stem):
            return FileRole(place.file, "unused", reason="made from other images")
        if any(name.is_spare for name in place.names):
            return FileRole(place.file, "unused", reason="its folder is called unsorted, or a copy")
        if split == "test":
            return self._in_test(place, quality, others)
        role, reason = self._in_train(place, quality, others) if split else self._without_split(place, quality, others)
        if role != "defect" and quality is None and names_defect(place.stem):
            role, reason = "unclear", "its name speaks of a defect, and no folder says that it is good"
        if role == "normal" and not split and {"named test", "not named test"} <= self.found and names_test(place.stem):
            role, reason = "unclear", "its name speaks of tests, and those of others do not"
        kind = others[-1] if others else "defect"
        return FileRole(place.file, role, kind if role == "defect" else "", reason=reason)

    @property
    def _good(self) -> Role:
        """Return what good images outside a test folder become: without one, a part of them is for testing."""
        return "train" if "test" in self.found else "normal"

    def _in_train(self, place: Place, quality: str | None, others: Sequence[str]) -> tuple[Role, str]:
        if quality == "good":
            return self._good, ""
        has_good = "good train" in self.found
        if quality == "bad" or (_is_kind(others) and (has_good or names_defect(others[-1]))):
            return self._bad("among the training images")
        if not has_good:
            return ("unclear", f"its folder {others[-1]} {UNKNOWN}") if others else (self._good, "")
        return _stray(place, "beside the folder of good training images")

    def _in_test(self, place: Place, quality: str | None, others: Sequence[str]) -> FileRole:
        if quality == "good":
            return FileRole(place.file, "good")
        parts = zip(PurePosixPath(place.file).parts, place.names, strict=False)
        named = [part for part, name in parts if not (name.split or name.is_neutral)]
        if quality == "bad" or _is_kind(others):
            return FileRole(place.file, "defect", others[-1] if others else "defect")
        reason = f"its folder {named[-1]} {UNKNOWN}" if named else NO_KIND
        return FileRole(place.file, "unclear", reason=reason)

    def _without_split(self, place: Place, quality: str | None, others: Sequence[str]) -> tuple[Role, str]:
        has_good, has_train = "good" in self.found, "train" in self.found
        if quality == "good" and not has_train:
            return self._good, ""
        if quality is None and not (others or has_good or has_train):
            return self._good, ""
        if quality == "bad" or (_is_kind(others) and names_defect(others[-1])):
            return self._bad("beside it")
        if has_train or "test" in self.found:
            return _stray(place, f"beside the folder of {'training' if has_train else 'test'} images")
        if others:
            return (
                ("defect", "") if has_good and _is_kind(others) else ("unclear", f"its folder {others[-1]} {UNKNOWN}")
            )
        return _stray(place, "beside the folder of good images")

    def _bad(self, where: str) -> tuple[Role, str]:
        """Return what images of defects outside a test folder become: those of the test, if it has no folder."""
        if "test" in self.found:
            return "unclear", f"there is a test folder, and this is a defect {where}"
        return "defect", ""


def _is_kind(others: Sequence[str]) -> bool:
    """Tell whether names that say neither good nor bad may be those of a kind of defect."""
    return bool(others) and not names_good(others[-1])


def _stray(place: Place, where: str) -> tuple[Role, str]:
    """Return what images become that nothing speaks of: a few that lie loose are unused, those in a folder unclear."""
    is_loose = all(name.split for name in place.names)
    return ("unused" if is_loose else "unclear"), where


def _said_by(place: Place) -> tuple[str | None, str | None, list[str]]:
    """Return which half an image's folders name, whether they call it good or bad, and the names that say neither."""
    named = list(zip(PurePosixPath(place.file).parts, place.names, strict=False))
    qualities = {name.quality for _, name in named if name.quality}
    quality = "bad" if "bad" in qualities else "good" if qualities else None
    kinds = [part for part, name in named if not name.split and name.quality != "good" and name.text]
    return place.split, quality, kinds

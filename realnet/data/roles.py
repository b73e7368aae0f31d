"""Say of every image file of a class what it becomes: trained on, tested on, a mask, or unused and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from realnet.data.folders import files_below
from realnet.data.formats import is_image
from realnet.data.groups import groups_of, split_normal
from realnet.data.layout_file import NO_LAYOUT, Layout
from realnet.data.pairing import Place, masks_by_name, pair_masks
from realnet.data.words import names_defect, names_derived

Role = Literal["train", "normal", "good", "defect", "mask", "unused", "unclear"]
UNKNOWN = "does not say whether it is good"


@dataclass(frozen=True, slots=True)
class FileRole:
    """What an image file becomes.

    Attributes:
        file: its path below the image root, with forward slashes.
        role: ``unclear``: the names do not tell; ``normal`` (good, not yet split) stays inside this module.
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


def roles_in_class(root: Path, class_name: str, layout: Layout = NO_LAYOUT) -> list[FileRole]:
    """Return what each image file of a class becomes, in natural order of the paths.

    The names of folders and files decide, at any depth, in upper or lower case and in several languages (``words``);
    what the layout says comes first. Files are opened only where their ending does not say whether they are images.
    """
    folder = root / class_name
    files = [file for file in files_below(folder) if is_image(folder / file)]
    told = {file: role for file in files if (role := layout.role_of(f"{class_name}/{file}"))}
    places = {file: Place(file) for file in files}
    masks = masks_by_name(place for file, place in places.items() if file not in told)
    masks |= {file for file, role in told.items() if role == "mask"}
    rules = _Rules.of(place for file, place in places.items() if file not in masks and file not in told)
    roles = {
        file: _told(file, told[file]) if file in told else rules.role_of(place)
        for file, place in places.items()
        if file not in masks
    }
    pairs = _roles_of_masks(places, masks, roles, set(told), is_flat=rules.is_flat)
    if rules.is_flat:
        roles = _with_masked(roles, pairs)
    both = roles | {file: replace(pair, is_told=file in told) for file, pair in pairs.items()}
    named = [_below(class_name, both[file]) for file in files]
    return _split(named, layout)


def _roles_of_masks(
    places: Mapping[str, Place], masks: set[str], roles: Mapping[str, FileRole], told: set[str], *, is_flat: bool
) -> dict[str, FileRole]:
    pairs = pair_masks(
        [place for file, place in places.items() if file in masks],
        [place for file, place in places.items() if file not in masks],
        defects={file for file, role in roles.items() if role.role == "defect" or is_flat},
        unused={file for file, role in roles.items() if role.role == "unused"},
        told=told,
    )
    return {file: FileRole(file, "mask", image=pair.image, reason=pair.reason) for file, pair in pairs.items()}


def _with_masked(roles: Mapping[str, FileRole], masks: Mapping[str, FileRole]) -> dict[str, FileRole]:
    """Make defects of a flat class's images that have a mask; nothing else says that they are defects."""
    masked = {mask.image for mask in masks.values()}
    return {
        file: replace(role, role="defect", kind="defect") if role.role == "normal" and file in masked else role
        for file, role in roles.items()
    }


def _told(file: str, role: str) -> FileRole:
    half, _, kind = role.partition(" ")
    if half == "test" and kind != "good":
        return FileRole(file, "defect", kind, is_told=True)
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
    """What the names of a class's folders mean together: which kinds of folders there are."""

    found: frozenset[str]

    @classmethod
    def of(cls, places: Iterable[Place]) -> "_Rules":
        found: set[str] = set()
        for place in places:
            split, quality, others = _said_by(place)
            open_word = "other" if others else "direct"
            found |= {split, f"{quality} {split}"} if split else {quality or open_word}
        return cls(frozenset(found))

    @property
    def is_flat(self) -> bool:
        """Tell whether no folder says what its images are."""
        return self.found == {"direct"}

    def role_of(self, place: Place) -> FileRole:
        """Return what an image that is no mask becomes."""
        split, quality, others = _said_by(place)
        if any(name.is_derived for name in place.names) or names_derived(place.stem):
            return FileRole(place.file, "unused", reason="made from other images")
        if any(name.is_spare for name in place.names):
            return FileRole(place.file, "unused", reason="its folder is called unsorted, or a copy")
        if split == "test":
            return self._in_test(place, quality, others)
        role, reason = self._in_train(quality, others) if split else self._without_split(quality, others)
        if role in {"train", "normal"} and quality is None and names_defect(place.stem):
            role, reason = "unclear", "its name speaks of a defect, and no folder says that it is good"
        kind = others[-1] if others else "defect"
        return FileRole(place.file, role, kind if role == "defect" else "", reason=reason)

    def _in_train(self, quality: str | None, others: Sequence[str]) -> tuple[Role, str]:
        if quality == "good":
            return "train", ""
        if quality == "bad":
            return "unused", "a defect among the training images"
        if "good train" in self.found:
            return "unused", "beside the folder of good training images"
        return ("unclear", f"its folder {others[-1]} {UNKNOWN}") if others else ("train", "")

    def _in_test(self, place: Place, quality: str | None, others: Sequence[str]) -> FileRole:
        if quality == "good":
            return FileRole(place.file, "good")
        parts = zip(PurePosixPath(place.file).parts, place.names, strict=False)
        named = [part for part, name in parts if not (name.split or name.is_neutral)]
        if others:
            return FileRole(place.file, "defect", others[-1])
        if named:
            return FileRole(place.file, "unclear", reason=f"its folder {named[-1]} {UNKNOWN}")
        return FileRole(place.file, "unused", reason="no folder says its kind; expected test/good or test/<kind>")

    def _without_split(self, quality: str | None, others: Sequence[str]) -> tuple[Role, str]:
        if "train" in self.found:
            return "unused", "beside the folder of training images"
        is_direct, has_good, has_test = not (quality or others), "good" in self.found, "test" in self.found
        if quality == "good" or (is_direct and not has_good):
            return ("train" if has_test else "normal"), ""
        if has_test or is_direct:
            return "unused", f"beside the folder of {'test' if has_test else 'good'} images"
        if quality == "bad" or has_good:
            return "defect", ""
        return ("unused" if "direct" in self.found else "unclear"), f"its folder {others[-1]} {UNKNOWN}"


def _said_by(place: Place) -> tuple[str | None, str | None, list[str]]:
    """Return which half an image's folders name, whether they call it good or bad, and the names that say neither."""
    named = list(zip(PurePosixPath(place.file).parts, place.names, strict=False))
    split = next((name.split for _, name in named if name.split), None)
    qualities = {name.quality for _, name in named if name.quality}
    quality = "bad" if "bad" in qualities else "good" if qualities else None
    kinds = [part for part, name in named if not name.split and name.quality != "good" and name.text]
    return split, quality, kinds

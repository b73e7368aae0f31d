"""Find the image that a mask belongs to, by the names of both."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from realnet.data.words import FolderName, read_name, same_name

_MASK = r"masks?|gts?|ground_?truth|labels?|seg|segmentation|annotation|maske|masque|mascara"
_MASK_MARK = re.compile(rf"^(?:{_MASK})[-_. ]+(?=.)|(?:(?:^|[-_. ]+)(?:{_MASK})|(?<=\d)mask)[-_ ]?\d*$", re.IGNORECASE)
_IMAGE_MARK = re.compile(r"[-_. ]+(?:img|image|rgb|photo|orig|original|colou?r)$", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where an image file lies.

    Attributes:
        file: its path below the class's folder.
        names: what the names of its folders say, from the outermost to its own.
    """

    file: str
    names: tuple[FolderName, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(read_name, PurePosixPath(self.file).parts[:-1])))

    @property
    def split(self) -> str | None:
        """Return which half its folders name."""
        return next((name.split for name in self.names if name.split), None)

    @property
    def folder(self) -> str:
        """Return its folder, below the class's; "" if it is the class's own."""
        folder = PurePosixPath(self.file).parent.as_posix()
        return "" if folder == "." else folder

    @property
    def stem(self) -> str:
        """Return its name without ending, one text for all spellings."""
        return same_name(PurePosixPath(self.file).stem)

    @property
    def bare_stem(self) -> str:
        """Return its name without what marks masks and images, such as ``_mask``."""
        return _IMAGE_MARK.sub("", _MASK_MARK.sub("", self.stem))

    @property
    def is_marked(self) -> bool:
        """Tell whether its name says that it is a mask."""
        return bool(_MASK_MARK.search(self.stem))

    @property
    def told(self) -> frozenset[str]:
        """Return what its folders say beside training, test and masks: good, a kind of defect, a lot."""
        parts = zip(PurePosixPath(self.file).parts, self.names, strict=False)
        return frozenset(
            name.text or same_name(part)
            for part, name in parts
            if not (name.is_neutral or ((name.split or name.is_truth) and not name.text))
        )

    @property
    def is_bad(self) -> bool:
        """Tell whether a folder's name speaks of bad products in general."""
        return any(name.quality == "bad" for name in self.names)


def masks_by_name(places: Iterable[Place]) -> set[str]:
    """Return the files that are masks by their folder, by their own name, or as the PNG beside a JPEG of that name."""
    found, beside = set(), defaultdict(list)
    for place in places:
        if place.is_marked or any(name.is_truth for name in place.names):
            found.add(place.file)
        beside[place.folder, place.stem].append(place.file)
    for same in beside.values():
        pngs = [file for file in same if file.lower().endswith(".png")]
        if 0 < len(pngs) < len(same):
            found.update(pngs)
    return found


class Pair(NamedTuple):
    """A mask's image, or the reason why it has none or is not the mask that is used."""

    image: str | None
    reason: str = ""


def pair_masks(
    masks: Sequence[Place], images: Sequence[Place], *, defects: set[str], unused: set[str], told: set[str]
) -> dict[str, Pair]:
    """Return the image of each mask.

    An image has the mask's name, with or without marks such as ``_mask``. Among several, one in the same folder comes
    first, then one whose folders have the same names, then one whose folders have those names too, then any that both
    call bad; among these, one of the same half.

    Args:
        masks: the masks.
        images: all other images of the class.
        defects: those of ``images`` that show a defect.
        unused: those that are neither trained nor tested on.
        told: masks that only a layout file or their pixels call so: names of folders that no image has say nothing.
    """
    known = frozenset().union(*(image.told for image in images))
    by_stem = defaultdict(list)
    for image in images:
        for stem in {image.stem, image.bare_stem}:
            by_stem[stem].append(image)
    ranked: dict[str, list[tuple[tuple[int, int], str]]] = defaultdict(list)
    found: dict[str, Pair] = {}
    for mask in masks:
        names = mask.told & known if mask.file in told else mask.told
        fits = _fitting(mask, names, by_stem, defects, unused)
        best = [image for rank, image in fits if rank == fits[0][0]]
        if not best:
            found[mask.file] = Pair(None, "a mask without an image of its name")
        elif len(best) > 1 and best[0] in defects:
            found[mask.file] = Pair(None, f"a mask that fits {len(best)} images: {best[0]} and {best[1]}")
        else:
            ranked[best[0]].append(((fits[0][0][0], int(mask.is_marked)), mask.file))
    for image_file, pairs in ranked.items():
        pairs.sort(key=lambda pair: pair[0], reverse=True)
        is_unclear = len(pairs) > 1 and pairs[0][0] == pairs[1][0]
        for number, (_, file) in enumerate(pairs):
            if is_unclear:
                found[file] = Pair(None, f"one of {len(pairs)} masks of {image_file}; join them into one file")
            else:
                found[file] = Pair(image_file, f"{pairs[0][1]} is used" if number else "")
    return found


def _fitting(
    mask: Place,
    names: frozenset[str],
    by_stem: Mapping[str, Sequence[Place]],
    defects: set[str],
    unused: set[str],
) -> list[tuple[tuple[int, bool, bool, bool], str]]:
    """Return the images that may be the mask's, the best first, each with its rank."""
    named = {image.file: image for stem in {mask.stem, mask.bare_stem} for image in by_stem.get(stem, ())}
    near = ((_nearness(mask, names, image), image) for image in named.values())
    fits = [
        ((rank, mask.split in {None, image.split}, image.file in defects, image.file not in unused), image.file)
        for rank, image in near
        if rank
    ]
    return sorted(fits, key=lambda fit: fit[0], reverse=True)


def _nearness(mask: Place, names: frozenset[str], image: Place) -> int:
    if mask.folder == image.folder:
        return 4
    if names == image.told:
        return 3
    return 2 if names < image.told else int(mask.is_bad and image.is_bad)

"""Keep the images of one part together, such as those of several cameras, when images are split."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from realnet.data.layout_file import NO_LAYOUT, Layout

TRAIN_SHARE = 0.8
"""Share of the normal images for training, if they come without a split."""
MOST_VIEWS, FEWEST_PARTS = 12, 5
_VIEW = re.compile(
    r"(?P<part>.+?)[-_. ]+(?P<view>(?:cam(?:era)?|view|shot|side|angle|kamera|v|c|s)?[-_ ]?\d{1,2}|[a-z]"
    r"|front|back|left|right|top|bottom)",
    re.IGNORECASE,
)


def groups_of(files: Sequence[str], layout: Layout = NO_LAYOUT) -> dict[str, str]:
    """Return the part that a file shows, for files whose part several of them show.

    The layout's ``group`` decides. Without one, a name such as ``0012_cam2`` or ``0012-left`` shows part 0012, if at
    least ``FEWEST_PARTS`` parts have the same 2 to ``MOST_VIEWS`` views, and there are no fewer parts than views.
    """
    if layout.group:
        told = {file: part for file in files if (part := layout.group_of(file))}
        return _shared(told)
    views: dict[str, set[str]] = defaultdict(set)
    parts: dict[str, str] = {}
    for file in files:
        match = _VIEW.fullmatch(PurePosixPath(file).stem)
        if match:
            part = f"{PurePosixPath(file).parent.name}/{match['part']}"
            parts[file] = part
            views[part].add(match["view"].casefold())
    all_views = set().union(*views.values()) if views else set()
    complete = sum(found == all_views for found in views.values())
    is_regular = 2 <= len(all_views) <= MOST_VIEWS and complete >= max(FEWEST_PARTS, len(all_views), len(views) / 2)
    return _shared(parts) if is_regular else {}


def split_normal(names: Iterable[str], group_of: Mapping[str, str] | None = None) -> tuple[list[str], list[str]]:
    """Split normal images into training and test images by a hash of their names: every call gives the same split.

    ``TRAIN_SHARE`` of them, rounded down but at least one, are for training; both lists keep the given order. Images of
    one group stay together; then the share is as large as whole groups allow.

    Args:
        names: names of the images.
        group_of: the group of those that are in one.
    """
    given = list(names)
    key: Callable[[str], str] = lambda name: (group_of or {}).get(name, name)  # noqa: E731
    members: dict[str, list[str]] = defaultdict(list)
    for name in given:
        members[key(name)].append(name)
    wanted = max(1, int(TRAIN_SHARE * len(given)))
    train: set[str] = set()
    for group in sorted(members, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest()):
        if not train or len(train) + len(members[group]) <= wanted:
            train.update(members[group])
    return [name for name in given if name in train], [name for name in given if name not in train]


def _shared(parts: Mapping[str, str]) -> dict[str, str]:
    """Return the files whose part another one shows, too."""
    numbers: dict[str, int] = defaultdict(int)
    for part in parts.values():
        numbers[part] += 1
    return {file: part for file, part in parts.items() if numbers[part] > 1}

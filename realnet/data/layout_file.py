"""A user's own words on a folder of images: globs and what the files that fit them become."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from realnet.config import paths
from realnet.config.files import parse_yaml
from realnet.data.words import same_name
from realnet.errors import UserError
from realnet.runtime.files import read_text

ROLES = "train, normal, test good, test <kind>, train <kind>, mask, unused"
GROUP = "group"


@dataclass(frozen=True)
class Layout:
    """Globs and roles, of which the first that fits a file counts.

    Attributes:
        roles: the role of each glob: ``train``, ``normal`` (a fixed fifth is for testing, if there are defects), ``test
            good``, ``test <kind>``, ``train <kind>`` (a defect, with a mask, to make anomalies of), ``mask`` or
            ``unused``. Globs are relative to the folder of all classes, or to that of the only class; ``**`` stands for
            any folders, ``<kind>`` for one folder's name.
        group: glob of the file names whose ``<group>`` names one part, photographed several times; None: no such parts.
    """

    roles: Mapping[str, str]
    group: str | None = None

    def role_of(self, file: str) -> str | None:
        """Return the role of a file, without ``<kind>``; None if no glob fits it."""
        for glob, role in self.roles.items():
            match = _pattern(glob).fullmatch(same_name(file))
            if match:
                kind = match.groupdict().get("kind", "")
                return role.replace("<kind>", PurePosixPath(file).parts[_depth(match, kind)] if kind else "")
        return None

    def group_of(self, file: str) -> str | None:
        """Return the part that a file shows; None if the file does not say."""
        match = self.group and _pattern(self.group).fullmatch(same_name(PurePosixPath(file).name))
        return match["group"] if match else None

    def idle(self, files: Sequence[str]) -> list[str]:
        """Return the globs, that of groups too, that fit none of some files."""
        texts = [same_name(file) for file in files]
        idle = [glob for glob in self.roles if not any(_pattern(glob).fullmatch(text) for text in texts)]
        return idle if not self.group or any(map(self.group_of, files)) else [*idle, self.group]

    def below(self, folder: str) -> "Layout":
        """Return the same layout with globs that begin at the folder above ``folder``."""
        return Layout({f"{folder}/{glob}": role for glob, role in self.roles.items()}, self.group)

    def as_yaml(self) -> str:
        """Return the text of a layout file that says the same."""
        lines = {**self.roles, **({GROUP: self.group} if self.group else {})}
        return "".join(f"{json.dumps(glob, ensure_ascii=False)}: {role}\n" for glob, role in lines.items())


NO_LAYOUT = Layout({})


def read_layout(path: Path) -> Layout:
    """Read a layout file: ``<glob>: <role>``, a line each, and perhaps ``group: <glob>``.

    Raises:
        UserError: if it cannot be read, or a line is not of that form.
    """
    repair = "--layout is auto, class, mvtec, sorted, folder, folders, or a YAML file of globs and roles"
    lines = parse_yaml(read_text(path, repair), str(path))
    if not isinstance(lines, Mapping) or not lines:
        raise UserError(f'{path} must hold lines such as "NG/**": test scratch; roles: {ROLES}')
    wrong = [f"{glob!r}: {role!r}" for glob, role in lines.items() if glob != GROUP and not _is_role(glob, role)]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is not a glob and its role; roles: {ROLES}")
    group = lines.get(GROUP)
    if group is not None and "<group>" not in str(group):
        raise UserError(f"{path}: group is {group!r}; mark the name of the part: <group>_cam?.*")
    return Layout({glob: role for glob, role in lines.items() if glob != GROUP}, group)


def stored_layout(dataset: str) -> Layout:
    """Return the layout of a registered dataset: ``experiments/<dataset>/layout.yaml``, if there is one.

    Raises:
        UserError: see :func:`read_layout`.
    """
    path = paths.experiment(dataset) / paths.LAYOUT
    return read_layout(path) if path.is_file() else NO_LAYOUT


def _is_role(glob: object, role: object) -> bool:
    if not isinstance(glob, str) or not isinstance(role, str):
        return False
    is_known = role in {"train", "normal", "mask", "unused"} or re.fullmatch(r"(test|train) [^/]*[^/ .][^/]*", role)
    return bool(is_known) and ("<kind>" not in role or "<kind>" in glob)


@lru_cache
def _pattern(glob: str) -> re.Pattern[str]:
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|<kind>|<group>)", same_name(glob))
    parts = {
        "**/": "(?:.*/)?",
        "**": ".*",
        "*": "[^/]*",
        "?": "[^/]",
        "<kind>": "(?P<kind>[^/]+)",
        "<group>": "(?P<group>[^/]+?)",
    }
    return re.compile("".join(parts.get(token, re.escape(token)) for token in tokens), re.DOTALL)


def _depth(match: re.Match[str], kind: str) -> int:
    """Return the number of the folder that ``<kind>`` stands for."""
    return match.string[: match.start("kind")].count("/") if kind else 0

"""Find the images to predict: files, videos, all images in and below folders, patterns, and lists of these."""

import glob
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from realnet.data.folders import natural_key
from realnet.data.formats import IMAGE_SUFFIXES, is_image
from realnet.errors import UserError
from realnet.prediction.videos import is_video


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that could not be judged, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Photographs:
    """The images to predict, and what was not taken.

    Attributes:
        root: folder of the images.
        files: paths of the images and videos relative to ``root``, in natural order.
        passed_over: number of other files, by suffix.
        left_out: folders that cannot be read.
    """

    root: Path
    files: Sequence[str]
    passed_over: Mapping[str, int]
    left_out: Sequence[LeftOut]

    @property
    def number(self) -> int | None:
        """Return how many images there are; None if some are yet to come, or are frames of videos."""
        return None if not self.files or any(map(is_video, self.files)) else len(self.files)

    def passed_over_text(self) -> str:
        """Return a text with the number of files passed over, by suffix; "" if there are none."""
        suffixes = (f"{number} {suffix or 'without one'}" for suffix, number in sorted(self.passed_over.items()))
        number = sum(self.passed_over.values())
        return f"{number:>6} passed over, not images: {', '.join(suffixes)}" if number else ""


def find_images(*sources: Path, output: Path, videos: bool = False) -> Photographs:
    """Find the images that paths name: files, folders with all in and below them, patterns, ``-`` for standard input.

    Links are followed; hidden files and folders are left out, and so is everything under ``output``. With one file or
    folder, names are relative to its folder; with several, to the folder that holds them all. Videos are taken, where
    they may be, if they are named themselves or by a pattern; a folder is one of photographs.

    Raises:
        UserError: if there is no such file or folder, or no image in it.
    """
    parts = [_find(place, output, videos) for source in sources for place in _places(source, videos)]
    if len(parts) == 1:
        return parts[0]
    root = Path(os.path.commonpath([part.root.absolute() for part in parts]))
    files = {(part.root.absolute() / file).relative_to(root).as_posix() for part in parts for file in part.files}
    others = sum((Counter(part.passed_over) for part in parts), Counter())
    left_out = {one.file: one for part in parts for one in part.left_out}
    return Photographs(root, sorted(files, key=natural_key), others, list(left_out.values()))


def watched_folder(folder: Path) -> Photographs:
    """Return a folder of photographs that are yet to be found.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"--watch {folder} is no folder; give the one that photographs come to")
    return Photographs(folder, [], {}, [])


def _places(source: Path, videos: bool) -> list[Path]:
    """Return the files and folders that a path, a pattern (such as ``day*/**/*.png``) or standard input names."""
    if str(source) == "-":
        with suppress(AttributeError):  # any name that a file can have
            sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
        named = [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        if not named:
            raise UserError("--input - takes paths on standard input, a line each, and there are none")
        return named
    if source.exists() or not glob.has_magic(str(source)):
        return [source]
    found = [Path(name) for name in glob.glob(str(source), recursive=True)]  # noqa: PTH207 - as shells do
    images = [path for path in found if path.is_dir() or is_image(path) or (videos and is_video(path))]
    if not images:
        raise UserError(f"--input {source} matches no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def _find(source: Path, output: Path, videos: bool) -> Photographs:
    if source.is_file() and is_video(source) and not videos:
        raise UserError(f"{source} is a video; give photographs")
    if source.is_file():
        return Photographs(source.parent, [source.name], {}, [])
    if not source.is_dir():
        raise UserError(f"--input {source} does not exist; give an image or a folder of images")
    left_out: list[LeftOut] = []
    paths = list(walk(source, output, left_out))
    images = {path for path in paths if is_image(path)}
    files = [path.relative_to(source).as_posix() for path in paths if path in images]
    passed_over = Counter(path.suffix.lower() for path in paths if path not in images)
    found = Photographs(source, sorted(files, key=natural_key), passed_over, left_out)
    if not files:
        reasons = [*(one.reason for one in left_out), *filter(None, [found.passed_over_text().strip()])]
        raise UserError(
            "\n".join([f"--input {source} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})", *reasons])
        )
    return found


def walk(source: Path, output: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Yield all files in and below a folder, and add the folders that cannot be read to ``left_out``.

    Each folder is entered once, even if several links lead to it, and by its own path if possible.
    """
    folders, seen = deque([source]), {output.resolve()} - {source.resolve()}
    while folders:
        folder = folders.popleft()
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        try:
            inside = [(path, path.is_dir()) for path in folder.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            left_out.append(LeftOut(str(folder), f"cannot read the folder {folder}: {error.strerror}"))
            continue
        yield from (path for path, is_folder in inside if not is_folder)
        below = [path for path, is_folder in inside if is_folder]
        folders.extendleft(path for path in below if not path.is_symlink())
        folders.extend(path for path in below if path.is_symlink())

"""Find the images to predict: a single file, or all images in and below a folder."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.data.folders import natural_key
from realnet.data.formats import IMAGE_SUFFIXES, is_image
from realnet.errors import UserError


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
        files: paths of the images relative to ``root``, in natural order.
        passed_over: number of other files, by suffix.
        left_out: folders that cannot be read.
    """

    root: Path
    files: Sequence[str]
    passed_over: Mapping[str, int]
    left_out: Sequence[LeftOut]

    def passed_over_text(self) -> str:
        """Return a text with the number of files passed over, by suffix; "" if there are none."""
        suffixes = (f"{number} {suffix or 'without one'}" for suffix, number in sorted(self.passed_over.items()))
        number = sum(self.passed_over.values())
        return f"{number:>6} passed over, not images: {', '.join(suffixes)}" if number else ""


def find_images(source: Path, *, output: Path) -> Photographs:
    """Find the images in and below a folder, following links; a single file is taken as it is.

    Hidden files and folders are left out, and so is everything under ``output``.

    Raises:
        UserError: if there is no such file or folder, or no image in it.
    """
    if source.is_file():
        return Photographs(source.parent, [source.name], {}, [])
    if not source.is_dir():
        raise UserError(f"--input {source} does not exist; give an image or a folder of images")
    left_out: list[LeftOut] = []
    paths = list(_walk(source, output, left_out))
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


def _walk(source: Path, output: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Yield all files; enter each folder once, even if several links lead to it, and by its own path if possible."""
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

"""The images that a user wants judged: one, or all below a folder, whatever else lies there."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.data.index import IMAGE_SUFFIXES, natural_key
from realnet.errors import UserError


@dataclass(frozen=True)
class LeftOut:
    """A file or a folder that is not judged though it should be, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Photographs:
    """What was found.

    Attributes:
        root: folder of the images.
        files: relative to it, in natural order.
        passed_over: how many other files there are, by ending.
        left_out: folders that cannot be read.
    """

    root: Path
    files: Sequence[str]
    passed_over: Mapping[str, int]
    left_out: Sequence[LeftOut]

    def passed_over_text(self) -> str:
        """Say how many files were passed over, and of which endings; "" where there are none."""
        endings = (f"{number} {ending or 'without one'}" for ending, number in sorted(self.passed_over.items()))
        number = sum(self.passed_over.values())
        return f"{number:>6} passed over, by ending no images: {', '.join(endings)}" if number else ""


def find_images(source: Path, *, output: Path) -> Photographs:
    """Find a file alone, or the images in a folder and below it, also behind links.

    What is hidden, and what lies under ``output``, is left out.

    Raises:
        UserError: where there is no such file or folder, or no image in it.
    """
    if source.is_file():
        return Photographs(source.parent, [source.name], {}, [])
    if not source.is_dir():
        raise UserError(f"--input {source} does not exist; give an image or a folder of images")
    left_out: list[LeftOut] = []
    paths = list(_walk(source, output, left_out))
    files = [path.relative_to(source).as_posix() for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    others = Counter(path.suffix.lower() for path in paths)
    passed_over = {ending: number for ending, number in others.items() if ending not in IMAGE_SUFFIXES}
    found = Photographs(source, sorted(files, key=natural_key), passed_over, left_out)
    if not files:
        reasons = [*(one.reason for one in left_out), *filter(None, [found.passed_over_text().strip()])]
        raise UserError(
            "\n".join([f"--input {source} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})", *reasons])
        )
    return found


def _walk(source: Path, output: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Yield all files, from each folder once, however many links lead to it, and by its own name where it has one."""
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

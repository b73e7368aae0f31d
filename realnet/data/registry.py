"""A dataset by its name: its config, its classes, and where its images are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.config import DatasetConfig, load_dataset, paths
from realnet.data.index import ClassIndex, build_index, discover_classes, load_index, write_index
from realnet.errors import UserError


@dataclass(frozen=True)
class OpenDataset:
    """A dataset whose images are there."""

    name: str
    config: DatasetConfig
    classes: tuple[str, ...]

    @property
    def image_root(self) -> Path:
        """Return the folder that entries' filenames are relative to."""
        return Path(self.config.image_root).expanduser()

    def index(self, class_name: str, *, write: bool = True) -> ClassIndex:
        """Return a class's images; builds the index where there is none, and unless told otherwise writes it.

        Raises:
            UserError: as ``load_index`` does.
        """
        return load_index(paths.protocols(self.name), self.image_root, class_name, write=write)

    def reindex(self, classes: Sequence[str], *, write: bool = True) -> dict[str, ClassIndex]:
        """Build the index of classes from the images on disk, whatever index there was.

        Raises:
            UserError: for all classes without training images at once; nothing is written then.
        """
        indexes, problems = {}, []
        for class_name in classes:
            try:
                indexes[class_name] = build_index(self.image_root, class_name)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        for class_name, index in indexes.items() if write else ():
            write_index(paths.protocols(self.name), class_name, index)
        return indexes


def keep_index(dataset: str, classes: Sequence[str]) -> None:
    """Write the index of classes that have none: a run that goes on shall see the images that it began with."""
    opened = open_dataset(dataset)
    for class_name in classes:
        opened.index(class_name)


def open_dataset(name: str) -> OpenDataset:
    """Read a dataset's config; its classes are the config's, else the folders on disk.

    Raises:
        UserError: where there is no such dataset, or no class on disk.
    """
    config = load_dataset(name)
    classes = config.classes or discover_classes(Path(config.image_root).expanduser())
    return OpenDataset(name, config, tuple(classes))

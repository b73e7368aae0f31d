"""A dataset by its name: its config, its classes, and where its images are."""

from dataclasses import dataclass
from pathlib import Path

from realnet import paths
from realnet.config import DatasetConfig, load_dataset
from realnet.data.index import ClassIndex, discover_classes, load_index


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
        return load_index(paths.samples(self.name), self.image_root, class_name, write=write)


def open_dataset(name: str) -> OpenDataset:
    """Read a dataset's config; its classes are the config's, else the folders on disk.

    Raises:
        UserError: where there is no such dataset, or no class on disk.
    """
    config = load_dataset(name)
    classes = config.classes or discover_classes(Path(config.image_root).expanduser())
    return OpenDataset(name, config, tuple(classes))

"""Open a dataset by its name: its config, its classes, and the folder of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realnet.config import DatasetConfig, load_dataset, paths
from realnet.data.index import ClassIndex, build_index, discover_classes, load_index, write_index
from realnet.data.layout_file import Layout, stored_layout
from realnet.errors import UserError

UNIFIED = "unified"
"""The name of the one detector of all classes of a dataset."""


def is_unified(name: str, classes: Sequence[str]) -> bool:
    """Tell whether a name stands for the detector of all classes, and is not that of a class, in any case."""
    return name == UNIFIED and UNIFIED not in {one.casefold() for one in classes}


@dataclass(frozen=True)
class OpenDataset:
    """A dataset that is ready to read: its config and its classes."""

    name: str
    config: DatasetConfig
    classes: tuple[str, ...]

    @property
    def image_root(self) -> Path:
        """Return the folder that the filenames of entries are relative to."""
        return Path(self.config.image_root).expanduser()

    def classes_of(self, detector: str) -> tuple[str, ...]:
        """Return the classes that a detector judges, by its name: that of a class, or ``unified`` for all."""
        return self.classes if is_unified(detector, self.classes) else (detector,)

    def index(self, class_name: str, *, write: bool = True) -> ClassIndex:
        """Return a class's index; if there is none, build it and, if ``write``, store it.

        Raises:
            UserError: see ``load_index``.
        """
        return load_index(
            paths.protocols(self.name),
            self.image_root,
            class_name,
            layout=stored_layout(self.name),
            masks_rule=self.config.masks,
            write=write,
        )

    def reindex(
        self, classes: Sequence[str], *, layout: Layout | None = None, write: bool = True
    ) -> dict[str, ClassIndex]:
        """Build the index of each class from the images on disk, and replace any earlier index if ``write``.

        Args:
            classes: the classes.
            layout: what the user says about the folders; None takes the dataset's layout file, if it has one.
            write: store the indexes.

        Raises:
            UserError: if classes have no training images; the message names all of them, and nothing is written.
        """
        indexes, problems = {}, []
        layout = stored_layout(self.name) if layout is None else layout
        for class_name in classes:
            try:
                indexes[class_name] = build_index(self.image_root, class_name, layout, self.config.masks)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        for class_name, index in indexes.items() if write else ():
            write_index(paths.protocols(self.name), class_name, index)
        return indexes


def keep_index(dataset: str, classes: Sequence[str]) -> None:
    """Write the index of classes that have none, so that a resumed run sees the images that it began with."""
    opened = open_dataset(dataset)
    for class_name in classes:
        opened.index(class_name)


def open_dataset(name: str) -> OpenDataset:
    """Read a dataset's config; the classes are those in the config, or else the class folders on disk.

    Raises:
        UserError: if there is no such dataset, or no class on disk.
    """
    config = load_dataset(name)
    classes = config.classes or discover_classes(Path(config.image_root).expanduser())
    return OpenDataset(name, config, tuple(classes))

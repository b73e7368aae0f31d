"""Local anomalies as a product: images, masks, the normal images they came from, and a manifest."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from realnet.anomalies.synthesis import AnomalySynthesizer, LocalAnomaly
from realnet.config import AnomalyConfig
from realnet.data.images import Image, read_image, resize_image, write_image
from realnet.data.index import Entry
from realnet.errors import UserError
from realnet.runtime.files import whole_file
from realnet.runtime.progress import bar

MANIFEST = "manifest.csv"
FOLDERS = ("image", "mask", "source")
MAX_FAILURES = 200
"""Images in a row that get no anomaly before it is given up."""


@dataclass(frozen=True)
class ManifestRow:
    """A line of the manifest.

    Attributes:
        file: in ``image/``, ``mask/`` and ``source/``.
        class_name: of the normal image.
        source_file: the normal image, as the index names it.
        anomaly_type: ``sdas``, ``dtd`` or ``self``.
        anomaly_source: the file whose pixels are pasted; empty: made of the image itself.
        seed: with ``epoch`` and ``index`` it fixes all random draws.
        epoch: the pass over the normal images.
        index: the normal image's number in the index.
        opacity: weight of the pasted pixels.
        perlin_height: cells of the Perlin lattice along the height.
        perlin_width: cells of the Perlin lattice along the width.
    """

    file: str
    class_name: str
    source_file: str
    anomaly_type: str
    anomaly_source: str
    seed: int
    epoch: int
    index: int
    opacity: float
    perlin_height: int
    perlin_width: int


def anomalous_only(config: AnomalyConfig) -> AnomalyConfig:
    """Return the config without ``normal`` items; the sources keep their proportions."""
    types = {kind: weight for kind, weight in config.types.items() if kind != "normal"}
    return config.model_copy(update={"types": types})


def check_request(folders: Iterable[Path], num_samples: int) -> None:
    """Check before any work what ``export_anomalies`` is asked for.

    Raises:
        UserError: where the number is not positive, or a folder holds a finished product.
    """
    if num_samples < 1:
        raise UserError(f"--num_samples {num_samples}: give 1 or more")
    taken = [str(folder / MANIFEST) for folder in folders if (folder / MANIFEST).exists()]
    if taken:
        raise UserError(f"{', '.join(taken)} exist; give another --output, or remove what is there first")


def export_anomalies(
    entries: Sequence[Entry],
    image_root: Path,
    *,
    synthesizer: AnomalySynthesizer,
    num_samples: int,
    seed: int,
    output: Path,
) -> list[ManifestRow]:
    """Write ``image/``, ``mask/`` and ``source/`` PNGs of equal names, and at the end ``manifest.csv``.

    The draws are those of training items: of (seed, epoch, index). The normal images take turns.

    Args:
        entries: normal images of a class.
        image_root: that they are relative to.
        synthesizer: of the class; draws no ``normal`` items.
        num_samples: exactly so many are written.
        seed: of all draws.
        output: the folder.

    Raises:
        UserError: where a file cannot be read or written, or no anomaly finds a place.
    """
    rows = []
    drawn = _draw(entries, image_root, synthesizer, num_samples, seed)
    for row, source, anomaly in bar(drawn, total=num_samples, description=entries[0].class_name):
        for folder, pixels in zip(FOLDERS, (anomaly.image, anomaly.mask, source), strict=True):
            write_image(output / folder / row.file, pixels)
        rows.append(row)
    _write_manifest(output / MANIFEST, rows)
    return rows


def _draw(
    entries: Sequence[Entry], image_root: Path, synthesizer: AnomalySynthesizer, num_samples: int, seed: int
) -> Iterator[tuple[ManifestRow, Image, LocalAnomaly]]:
    digits = max(5, len(str(num_samples - 1)))
    count = turn = failures = 0
    while count < num_samples:
        epoch, index = divmod(turn, len(entries))
        source = resize_image(read_image(image_root / entries[index].filename), synthesizer.image_size)
        anomaly = synthesizer.synthesize(source, np.random.default_rng((seed, epoch, index)))
        turn += 1
        failures = 0 if anomaly.mask.any() else failures + 1
        if failures == MAX_FAILURES:
            raise UserError(
                f"{failures} images of {entries[0].class_name} in a row have no place for an anomaly; look at their "
                "foreground with prepare_data.py preview, and correct it in dataset.yaml"
            )
        if not failures:
            yield _row(f"{count:0{digits}d}.png", entries[index], anomaly, (seed, epoch, index)), source, anomaly
            count += 1


def _row(file: str, entry: Entry, anomaly: LocalAnomaly, draw: tuple[int, int, int]) -> ManifestRow:
    return ManifestRow(
        file=file,
        class_name=entry.class_name,
        source_file=entry.filename,
        anomaly_type=anomaly.kind,
        anomaly_source=anomaly.source.as_posix() if anomaly.source else "",
        seed=draw[0],
        epoch=draw[1],
        index=draw[2],
        opacity=round(anomaly.opacity, 6),
        perlin_height=anomaly.periods[0],
        perlin_width=anomaly.periods[1],
    )


def _write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    with whole_file(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)

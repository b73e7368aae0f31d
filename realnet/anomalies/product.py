"""Export local anomalies: their images, masks and normal originals, with a manifest."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from realnet.anomalies.items import item_generator
from realnet.anomalies.synthesis import AnomalySynthesizer, LocalAnomaly
from realnet.config import AnomalyConfig
from realnet.data.folders import images_in
from realnet.data.images import Image, read_image, resize_image, write_image
from realnet.data.index import Entry
from realnet.errors import UserError
from realnet.runtime.files import whole_file
from realnet.runtime.lock import locked
from realnet.runtime.progress import bar
from realnet.runtime.randomness import DRAWS

MANIFEST, UNFINISHED = "manifest.csv", ".unfinished"
FOLDERS = ("image", "mask", "source")
MAX_FAILURES = 200
"""Images in a row without an anomaly after which the export gives up."""


@dataclass(frozen=True)
class ManifestRow:
    """A row of the manifest.

    Attributes:
        file: name of the files in ``image/``, ``mask/`` and ``source/``.
        class_name: class of the normal image.
        source_file: path of the normal image, as the index names it.
        anomaly_type: ``sdas``, ``dtd``, ``self`` or ``real``.
        anomaly_source: file of the pasted pixels; empty if they come from the image itself.
        seed: determines all random draws, together with ``epoch`` and ``index``.
        epoch: pass over the normal images.
        index: number of the normal image in the index.
        opacity: weight of the pasted pixels, in (0, 1].
        perlin_height: cells of the Perlin lattice along the height; 0 for a real defect, which has a mask of its own.
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
    """Return the config without the type ``normal``; the other types keep their proportions."""
    types = {kind: weight for kind, weight in config.types.items() if kind != "normal"}
    return config.model_copy(update={"types": types})


def check_request(folders: Collection[Path], num_samples: int) -> None:
    """Check a request for ``export_anomalies`` before any work.

    Raises:
        UserError: if the number is not positive, or a folder holds a finished export or files of another maker.
    """
    if num_samples < 1:
        raise UserError(f"--num_samples {num_samples}: give 1 or more")
    taken = [str(folder / MANIFEST) for folder in folders if (folder / MANIFEST).exists()]
    if taken:
        raise UserError(f"{', '.join(taken)} already exist; give another --output, or remove them first")
    inside = [f / name for f in folders if not (f / UNFINISHED).exists() for name in FOLDERS if images_in(f / name)]
    if inside:
        raise UserError(f"{inside[0]} holds images that no export left unfinished; give another --output")


def export_anomalies(
    entries: Sequence[Entry],
    image_root: Path,
    *,
    synthesizer: AnomalySynthesizer,
    num_samples: int,
    seed: int,
    output: Path,
    image_bits: int = 16,
    draws: int = DRAWS,
) -> list[ManifestRow]:
    """Write PNGs of equal names to ``image/``, ``mask/`` and ``source/``, and at the end ``manifest.csv``.

    The normal images take turns. As in training, (seed, epoch, index) seeds the draws
    (docs/method.md, Local anomalies).

    Args:
        entries: normal images of a class.
        image_root: folder that their filenames are relative to.
        synthesizer: synthesizer of the class; it must draw no ``normal`` items.
        num_samples: number of anomalies to write.
        seed: seed of all draws.
        output: folder to write to.
        image_bits: bits that 16-bit values use.
        draws: as for :func:`item_generator`.

    Raises:
        UserError: if a file cannot be read or written, or ``MAX_FAILURES`` images in a row get no anomaly.
    """
    rows = []
    drawn = _draw(entries, image_root, synthesizer, num_samples, seed, image_bits, draws)
    with locked(output):
        (output / UNFINISHED).touch()
        for row, source, anomaly in bar(drawn, total=num_samples, description=entries[0].class_name):
            for folder, pixels in zip(FOLDERS, (anomaly.image, anomaly.mask, source), strict=True):
                write_image(output / folder / row.file, pixels)
            rows.append(row)
        _write_manifest(output / MANIFEST, rows)
        (output / UNFINISHED).unlink()
    return rows


def _draw(
    entries: Sequence[Entry],
    image_root: Path,
    synthesizer: AnomalySynthesizer,
    num_samples: int,
    seed: int,
    bits: int,
    draws: int,
) -> Iterator[tuple[ManifestRow, Image, LocalAnomaly]]:
    digits = max(5, len(str(num_samples - 1)))
    count = turn = failures = 0
    while count < num_samples:
        epoch, index = divmod(turn, len(entries))
        source = resize_image(read_image(image_root / entries[index].filename, bits), synthesizer.image_size)
        anomaly = synthesizer.synthesize(source, item_generator(seed, epoch, index, draws=draws))
        source = synthesizer.tile_at(source, anomaly.corner)
        turn += 1
        failures = 0 if anomaly.mask.any() else failures + 1
        if failures == MAX_FAILURES:
            raise UserError(
                f"{failures} images of {entries[0].class_name} in a row have no room for an anomaly; look at their "
                "foreground with python prepare_data.py preview, and correct its rule in dataset.yaml"
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

"""What an earlier prediction left in an output folder, for ``--watch`` to add to."""

import csv
import os
from pathlib import Path

from realnet.errors import UserError
from realnet.prediction.outputs import PAGE, PREDICTIONS, REGIONS
from realnet.runtime import contents
from realnet.runtime.files import refusing, whole

DETECTOR = ".detector"
"""Name of the file with the checksum of the detector whose verdicts an output folder holds."""
LONGEST_LINE = 2**20
"""Bytes at the end of a file in which its last line begins."""


def keep_detector(path: Path, output: Path) -> None:
    """Note in an output folder which detector's verdicts it gets.

    Raises:
        UserError: if it cannot be written.
    """
    with refusing(output):
        output.mkdir(parents=True, exist_ok=True)
    with whole(output / DETECTOR) as part:
        part.write_text(_checksum(path, output), encoding="utf-8")


def judged_files(output: Path, detector: Path, threshold: float | None) -> set[str]:
    """Return the printable names of the files that have a verdict in an output folder, to which others are then added.

    Args:
        output: the folder.
        detector: the file of the detector whose verdicts are added.
        threshold: their image threshold.

    Raises:
        UserError: if the folder is not one of predictions, or its verdicts are another detector's or by another
            threshold.
    """
    table = output / PREDICTIONS
    if not table.is_file():
        if output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir()):
            raise UserError(f"--output {output} holds files that no prediction wrote; give another --output")
        return set()
    _require_detector(detector, output)
    for name in (REGIONS, PREDICTIONS, PAGE):
        _drop_torn_line(output / name)
    with table.open(encoding="utf-8", newline="") as file:
        rows = [(row["file"], row["threshold"]) for row in csv.DictReader(file)]
    other = {stored for _, stored in rows} - {"" if threshold is None else str(threshold)}
    if other:
        raise UserError(
            f"{table} holds verdicts by the threshold {other.pop() or 'of no detector'}, and now it is {threshold}; "
            "give another --output"
        )
    return {name for name, _ in rows}


def _require_detector(path: Path, output: Path) -> None:
    kept = output / DETECTOR
    if kept.is_file() and kept.read_text(encoding="utf-8") != _checksum(path, output):
        raise UserError(f"{output} holds verdicts of a detector other than {path} is now; give another --output")


def _checksum(path: Path, output: Path) -> str:
    """Return a checksum of a detector's contents; OpenVINO's weights lie in a file of their own."""
    return contents.digest([path, *filter(Path.is_file, [path.with_suffix(".bin")])], output)


def _drop_torn_line(path: Path) -> None:
    """Cut off what a power cut left of a last line."""
    if path.is_file():
        with refusing(path), path.open("r+b") as file:
            start = max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE)
            file.seek(start)
            file.truncate(start + file.read().rfind(b"\n") + 1)

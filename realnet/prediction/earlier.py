"""What an earlier prediction left in an output folder, for ``--watch`` to add to."""

import os
from pathlib import Path

from realnet.errors import UserError, printable
from realnet.prediction.outputs import DETECTOR, PREDICTIONS, RESULTS, holds_predictions
from realnet.runtime import contents
from realnet.runtime.files import read_table, read_text, refusing, whole

LONGEST_LINE = 2**20
"""Bytes at the end of a file in which its last line begins."""


def keep_origin(path: Path, folder: Path, output: Path) -> None:
    """Note in an output folder which detector's verdicts it gets, and on the photographs of which folder.

    Raises:
        UserError: if it cannot be written.
    """
    with refusing(output):
        output.mkdir(parents=True, exist_ok=True)
    with whole(output / DETECTOR) as part:
        part.write_text(f"{_checksum(path, output)}\n{_name(folder)}", encoding="utf-8")


def judged_files(output: Path, detector: Path, folder: Path, threshold: float | None) -> set[str]:
    """Return the printable names of the files that have a verdict in an output folder, to which others are then added.

    Args:
        output: the folder.
        detector: the file of the detector whose verdicts are added.
        folder: of the photographs that are judged; the names are relative to it.
        threshold: their image threshold.

    Raises:
        UserError: if the folder is not one of predictions, or its verdicts are another detector's, on another folder's
            photographs, or by another threshold.
    """
    table = output / PREDICTIONS
    if not holds_predictions(output):
        if output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir()):
            raise UserError(f"--output {output} holds files that no prediction wrote; give another --output")
        return set()
    _require_origin(detector, folder, output)
    for name in RESULTS:
        _drop_torn_line(output / name)
    rows = read_table(table, ("file", "threshold"))
    other = {row["threshold"] for row in rows} - {"" if threshold is None else str(threshold)}
    if other:
        raise UserError(
            f"{table} holds verdicts by the threshold {other.pop() or 'of no detector'}, and now it is {threshold}; "
            "give another --output"
        )
    return {row["file"] for row in rows}


def _require_origin(path: Path, folder: Path, output: Path) -> None:
    if not (output / DETECTOR).is_file():
        return
    checksum, _, photographs = read_text(output / DETECTOR).partition("\n")
    if checksum != _checksum(path, output):
        raise UserError(f"{output} holds verdicts of a detector other than {path} is now; give another --output")
    if photographs and photographs != _name(folder):
        raise UserError(
            f"{output} holds verdicts on photographs in {photographs}, and now they are in {folder}; give another "
            "--output"
        )


def _name(folder: Path) -> str:
    return printable(str(folder.resolve()))


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

"""Calibrate: set a detector's thresholds anew on photographs, without training."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realnet.commands import cli
from realnet.commands.cli import location

if TYPE_CHECKING:
    from realnet.detection.detector import Detector, Prediction
    from realnet.prediction.inputs import Photographs

EPILOG = """\
reads    --detector (a checkpoint or a bundle), or the class's own; photographs that it was not trained on
writes   the new thresholds into the detector's file, or into a copy: --output
then     python predict_realnet.py --detector FILE --input PHOTOS

It says how many photographs were called defects, the 95 % interval of their rate among all photographs (Clopper and
Pearson), and how many photographs it would take to promise the rate that you ask for.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate the detector that the flags name."""
    parser = cli.detector_parser(__doc__, epilog=EPILOG)
    parser.add_argument(
        "--good",
        type=location,
        nargs="+",
        required=True,
        metavar="PATH",
        help="photographs without defects: images, folders, patterns",
    )
    parser.add_argument("--defects", type=location, nargs="+", metavar="PATH", help="photographs with defects")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--max_false_alarm",
        type=float,
        metavar="RATE",
        help="share of good photographs to call defects (default: 0.01)",
    )
    target.add_argument("--min_recall", type=float, metavar="RATE", help="share of the defects to find, instead")
    parser.add_argument(
        "--output", type=location, metavar="FILE", help="the file to write (default: the detector's own)"
    )
    flags = parser.parse_args(arguments)
    config = cli.load_config_of_use(flags)

    from realnet.errors import UserError
    from realnet.runtime.distributed import join_world, refusing_together
    from realnet.runtime.lock import one_run
    from realnet.runtime.progress import console

    for name in ("max_false_alarm", "min_recall"):
        rate = getattr(flags, name)
        if rate is not None and not 0 <= rate <= 1:
            raise UserError(f"--{name} {rate} must be a share, from 0 to 1")
    path, class_name = cli.find_detector(flags)
    output = flags.output or path
    if output.suffix != path.suffix:
        raise UserError(f"--output {output} must end in {path.suffix}, as {path} does")
    with join_world(flags.device) as world, console(world.is_main), ExitStack() as held:
        if not flags.dry_run:
            held.enter_context(one_run(output.resolve().parent, world))
        with refusing_together():
            if world.is_main:  # one process is enough
                known = {"config": config, "dataset": flags.dataset, "class_name": class_name}
                _calibrate(flags, path, output, device=world.device, **known)


def _calibrate(flags: argparse.Namespace, path: Path, output: Path, **known: Any) -> None:
    """Set the thresholds of the detector at ``path``; ``known`` are settings of :meth:`Detector.load`."""
    import numpy as np

    from realnet.detection.bundle import is_bundle
    from realnet.detection.detector import Detector
    from realnet.detection.recalibration import (
        calibration_at,
        choose_threshold,
        read_storable,
        recalibrated,
        require_unseen,
        store,
    )
    from realnet.errors import UserError
    from realnet.prediction.inputs import find_images
    from realnet.runtime.contents import stamp

    before = stamp(path)
    stored, detector = read_storable(path), Detector.load(path, **known)
    if stamp(path) != before:
        raise UserError(f"{path} has just been replaced by another run; wait until it ends, then calibrate again")
    photographs = find_images(*flags.good, output=output)
    require_unseen(stored, photographs.root, photographs.files)
    good = _predictions(detector, photographs, "good")
    defects = _predictions(detector, find_images(*flags.defects, output=output), "defects") if flags.defects else None
    scores = np.array([one.image_score for one in good])
    chosen = choose_threshold(
        scores,
        None if defects is None else np.array([one.image_score for one in defects]),
        max_false_alarm=flags.max_false_alarm,
        min_recall=flags.min_recall,
    )
    earlier = detector.calibration
    calibration = calibration_at(chosen, earlier, [float(one.anomaly_map.max()) for one in good], scores)
    if not flags.dry_run:
        changed = recalibrated(stored, calibration, chosen, detector.config.evaluation, known["class_name"])
        store(changed, output.resolve(), as_bundle=is_bundle(path))  # a link stays one, to the same file
    was = f" (was {earlier.image_threshold:.4g})" if earlier else ""
    pixels = f" (was {earlier.pixel_threshold:.4g})" if earlier else ""
    lack = f"NOT certain with {len(good)} good photographs: it takes {chosen.missing} without a false alarm"
    cli.close(
        True,
        f"threshold  {calibration.image_threshold:.4g}{was}; of pixels {calibration.pixel_threshold:.4g}{pixels}",
        f"asked      {chosen.asked}",
        *([f"           {lack}"] if chosen.missing else []),
        f"good       called defects: {chosen.false_alarms}",
        *([f"defects    found: {chosen.recall}"] if chosen.recall else []),
        f"{'would write' if flags.dry_run else 'written   '} {output}",
    )


def _predictions(detector: "Detector", found: "Photographs", description: str) -> "list[Prediction]":
    """Predict photographs, keeping neither the photographs nor their maps at full size."""
    from dataclasses import replace

    from realnet.errors import for_each
    from realnet.runtime.progress import bar

    def predict(name: str) -> "Prediction":
        one = detector.predict(found.root / name)
        return replace(one, image=None, anomaly_map=one.anomaly_map.max(keepdims=True))

    return for_each(predict, bar(found.files, total=len(found.files), description=description))

"""Predict: verdicts, regions and heatmaps for photographs and videos, without ground truth."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import paths

if TYPE_CHECKING:
    from realnet.detection.detector import Detector
    from realnet.prediction.inputs import Photographs
    from realnet.prediction.outputs import Summary
    from realnet.runtime.distributed import World

EPILOG = """\
reads    --detector FILE; or experiments/<dataset>/realnet_checkpoints/<class>/ckpt_last.pth, or else ckpt_best.pth (or
         --checkpoint)
writes   --output (default: predictions/, or experiments/<dataset>/realnet_vis/<class>/predictions/):
         predictions.csv     file, score, threshold, verdict, seconds
         predictions.jsonl   the same, the size, the pixel threshold, and the regions: bounding box, area, peak and
                             mean score, polygon, in the photograph's pixels
         predictions.html    a page with every photograph, sorted and filtered; a slider moves the threshold; needs no
                             network and no other file, and has about 12 kB for a photograph
         and for each photograph or frame (named clip.mp4#000123), under its own path, a heatmap that outlines the
         defects (or what --save names); --watch adds to what an earlier --watch wrote
class    of a detector of all classes, --detector FILE --class_name CLASS judges by the thresholds of this class
exit     1 if a file or folder could not be read, or a heatmap could not be written under its file's name (all other
         images are predicted), 2 if the input cannot be used

Outlines, masks and regions follow the image threshold: where --threshold moves it, the pixels' moves in proportion.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict the images that the flags name; return the exit code."""
    flags = _parser().parse_args(arguments)
    config = cli.load_config_of_use(flags)
    _check(flags)

    from realnet.detection.detector import Detector
    from realnet.detection.half import half_suits
    from realnet.dry_run import plan
    from realnet.prediction.inputs import find_images, watched_folder
    from realnet.prediction.outputs import protect_files
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.runtime.lock import one_run
    from realnet.runtime.progress import console

    path, class_name = cli.find_detector(flags)
    output = flags.output or _default_output(flags.dataset, class_name)
    found = watched_folder(flags.watch) if flags.watch else find_images(*flags.input, output=output, videos=True)
    protect_files(found.root, found.files, output, flags.save)
    known = {"config": config, "dataset": flags.dataset, "class_name": class_name, "runtime": flags.runtime}
    number_format = config.runtime.precision if config else "auto"
    if flags.dry_run:
        plain = plan_world(flags.device, "fp32").precision  # the rehearsal takes the format of use
        detector = Detector.load(path, precision=plain.on("meta"), **known)
        if detector.is_torch:
            number_format = detector.config.runtime.precision
        world = plan_world(flags.device, number_format, half_on_cpu=half_suits(detector.facts))
        plan.show(detector.config, plan.prediction(detector, str(path), found.number, output, world), world)
        return 0
    with join_world(flags.device, number_format) as world, console(world.is_main), one_run(output, world):
        detector = Detector.load(path, device=world.device, **known)
        about = [f"detector   {path}, in {detector.runtime.name}", *_threshold_line(detector, flags.threshold)]
        summary = _predict(detector, path, found, output, flags, about, world)
    reasons = [one.reason for one in (*found.left_out, *summary.left_out)]
    cli.close(
        world.is_main,
        *_counts(summary.verdicts),
        *filter(None, [found.passed_over_text()]),
        *([f"{len(reasons):>6} left out", *reasons] if reasons else []),
        *about,
        *_written(output, flags.save),
    )
    return 1 if reasons else 0


def _check(flags: Namespace) -> None:
    """Raise UserError for a number that a flag cannot have."""
    from realnet.errors import UserError

    if flags.threshold is not None and not 0 <= flags.threshold <= 1:
        raise UserError(f"--threshold {flags.threshold} must be an image score, from 0 to 1")
    for name in ("batch_size", "every"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} {getattr(flags, name)} must be at least 1")


def _predict(
    detector: "Detector",
    path: Path,
    found: "Photographs",
    output: Path,
    flags: Namespace,
    about: Sequence[str],
    world: "World",
) -> "Summary":
    """Predict the photographs, or those that come to a watched folder, and write the verdicts as they come.

    Raises:
        UserError: as :func:`predict_files` and :func:`write_predictions`; if several processes would watch.
    """
    from realnet.errors import UserError
    from realnet.prediction.earlier import judged_files, keep_origin
    from realnet.prediction.outputs import write_predictions
    from realnet.prediction.run import predict_files
    from realnet.prediction.watching import watch
    from realnet.runtime.progress import bar

    if flags.watch and world.size > 1:
        raise UserError("--watch runs as one process; start it without torchrun")
    predict = partial(
        predict_files,
        detector,
        root=found.root,
        output=output,
        threshold=flags.threshold,
        kinds=flags.save,
        batch_size=flags.batch_size,
        every=flags.every,
        world=world,
    )
    if flags.watch:
        judged = judged_files(output, path, found.root, detector.display(flags.threshold).threshold)
        verdicts = watch(found.root, output, judged, predict, world.stop, kinds=flags.save)
    else:
        verdicts = predict(found.files)
    if world.is_main:
        keep_origin(path, found.root, output)
    title = detector.class_name or path.stem
    page = _page(title, about, detector, flags.threshold) if "page" in flags.save else None
    shown = bar(verdicts, total=found.number, description=title, is_main=world.is_main)
    return write_predictions(shown, output, world, page=page, resume=bool(flags.watch))


def _counts(verdicts: Mapping[str | None, int]) -> list[str]:
    names = {
        "defect": "defect",
        "normal": "normal",
        None: "without a verdict: the detector stores no threshold; give --threshold",
    }
    return [f"{number:>6} {names[verdict]}" for verdict, number in sorted(verdicts.items(), key=str)]


def _threshold_line(detector: "Detector", given: float | None) -> list[str]:
    if given is not None:
        return [f"threshold  {given:.4g} (given)"]
    calibration = detector.calibration
    return [f"threshold  {calibration.image_threshold:.4g} (calibrated)"] if calibration else []


def _page(title: str, about: Sequence[str], detector: "Detector", threshold: float | None) -> str:
    """Return the start of the page."""
    from realnet.reporting.predictions import start_of_page

    made = f"predicted  {datetime.now().astimezone().isoformat(' ', 'minutes')}"
    return start_of_page(f"Predictions: {title}", [made, *about], detector.display(threshold))


def _written(output: Path, kinds: Sequence[str]) -> list[str]:
    from realnet.prediction.outputs import PAGE, PREDICTIONS, REGIONS

    places = {"page": output / PAGE, "heatmaps": output}
    return [
        f"verdicts   {output / PREDICTIONS}",
        f"regions    {output / REGIONS}",
        *(f"{kind:<10} {places.get(kind, output / kind)}" for kind in kinds),
    ]


def _parser() -> ArgumentParser:
    parser = cli.detector_parser(__doc__, epilog=EPILOG)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        type=location,
        nargs="+",
        metavar="PATH",
        help="images, videos, folders of images, patterns ('day*/**/*.png'), or - for paths on standard input",
    )
    source.add_argument(
        "--watch",
        type=location,
        metavar="DIR",
        help="a folder to watch: each photograph, old or new, is judged once, when it is complete, also if the command "
        "is started again; Ctrl-C ends it",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of a video, predict every N-th frame (default: 1, all)"
    )
    parser.add_argument("--output", type=location, metavar="DIR", help="where the verdicts and pictures go")
    parser.add_argument(
        "--save",
        nargs="*",
        choices=("page", "heatmaps", "masks", "maps", "overlays"),
        default=["page", "heatmaps"],
        help="what to write beside the verdicts (default: page heatmaps; nothing: only verdicts): the page; of each "
        "photograph, itself beside its heatmap; masks as PNG; anomaly maps as float32 NPY; overlays at its size",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="threshold on the image score, instead of the calibrated one"
    )
    parser.add_argument("--checkpoint", type=location, metavar="FILE", help="a detector of the class, not its own")
    cli.add_runtime(parser)
    parser.add_argument(
        "--batch_size",
        type=int,
        default=8,
        metavar="N",
        help="images read ahead, and drawn, at a time (default: 8); affects speed and memory, never a result",
    )
    return parser


def _default_output(dataset: str | None, class_name: str | None) -> Path:
    if not (dataset and class_name):
        return Path("predictions")
    return paths.output(dataset, "realnet", "vis", class_name) / "predictions"

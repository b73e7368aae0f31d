"""Predict: verdicts, regions and heatmaps for photographs, without ground truth."""

from collections.abc import Sequence
from pathlib import Path

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import paths

EPILOG = """\
reads    --detector FILE; or experiments/<dataset>/realnet_checkpoints/<class>/ckpt_last.pth, or else ckpt_best.pth (or
         --checkpoint)
writes   --output (default: predictions/, or experiments/<dataset>/realnet_vis/<class>/predictions/):
         predictions.csv     file, score, threshold, verdict, seconds
         predictions.jsonl   the same, the size, the pixel threshold, and the regions: bounding box, area, peak and
                             mean score, polygon, in the photograph's pixels
         and for each photograph, under its own path, a heatmap that outlines the defects (or what --save names)
exit     1 if a file or folder could not be read, or a heatmap could not be written under its file's name (all other
         images are predicted), 2 if the input cannot be used

Outlines, masks and regions follow the image threshold: where --threshold moves it, the pixels' moves in proportion.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict the images that the flags name; return the exit code."""
    parser = cli.detector_parser(__doc__, epilog=EPILOG)
    parser.add_argument(
        "--input",
        type=location,
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, folders of images, patterns ('day*/**/*.png'), or - for paths on standard input",
    )
    parser.add_argument("--output", type=location, metavar="DIR", help="where the verdicts and pictures go")
    parser.add_argument(
        "--save",
        nargs="*",
        choices=("heatmaps", "masks", "maps", "overlays"),
        default=["heatmaps"],
        help="what to write of each photograph (default: heatmaps; none: only verdicts): the photograph beside its "
        "heatmap; masks as PNG; anomaly maps as float32 NPY; overlays at the photograph's size",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="threshold on the image score, instead of the calibrated one"
    )
    parser.add_argument("--checkpoint", type=location, metavar="FILE", help="a detector of the class, not its own")
    parser.add_argument(
        "--runtime", choices=("openvino", "onnxruntime"), help="runs an ONNX file (default: the fastest installed)"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=8,
        metavar="N",
        help="images processed at a time (default: 8); affects speed and memory, never a result",
    )
    flags = parser.parse_args(arguments)
    config = cli.load_config_of_use(flags)

    from realnet.detection.detector import Detector
    from realnet.dry_run import plan
    from realnet.errors import UserError
    from realnet.prediction.inputs import find_images
    from realnet.prediction.outputs import PREDICTIONS, REGIONS, protect_files, write_predictions
    from realnet.prediction.run import predict_files
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.runtime.lock import one_run
    from realnet.runtime.progress import bar, console

    if flags.threshold is not None and not 0 <= flags.threshold <= 1:
        raise UserError(f"--threshold {flags.threshold} must be an image score, from 0 to 1")
    if flags.batch_size < 1:
        raise UserError(f"--batch_size {flags.batch_size} must be at least 1")
    path, class_name = cli.find_detector(flags)
    output = flags.output or _default_output(flags.dataset, class_name)
    found = find_images(*flags.input, output=output)
    protect_files(found.root, found.files, output, flags.save)
    known = {"config": config, "dataset": flags.dataset, "class_name": class_name, "runtime": flags.runtime}
    number_format = config.runtime.precision if config else "auto"
    if flags.dry_run:
        world = plan_world(flags.device, number_format)
        detector = Detector.load(path, precision=world.precision.on("meta"), **known)
        plan.show(detector.config, plan.prediction(detector, str(path), len(found.files), output, world), world)
        return 0
    with join_world(flags.device, number_format) as world, console(world.is_main), one_run(output, world):
        detector = Detector.load(path, device=world.device, **known)
        verdicts = predict_files(
            detector,
            found.files,
            found.root,
            output,
            threshold=flags.threshold,
            pictures=flags.save,
            batch_size=flags.batch_size,
            world=world,
        )
        description = detector.class_name or path.stem
        shown = bar(verdicts, total=len(found.files), description=description, is_main=world.is_main)
        summary = write_predictions(shown, output, world)

    threshold, source = flags.threshold, "given"
    if threshold is None and detector.calibration is not None:
        threshold, source = detector.calibration.image_threshold, "calibrated"
    names = {
        "defect": "defect",
        "normal": "normal",
        None: "without a verdict: the detector stores no threshold; give --threshold",
    }
    counts = [f"{number:>6} {names[verdict]}" for verdict, number in sorted(summary.verdicts.items(), key=str)]
    reasons = [one.reason for one in (*found.left_out, *summary.left_out)]
    cli.close(
        world.is_main,
        *counts,
        *filter(None, [found.passed_over_text()]),
        *([f"{len(reasons):>6} left out", *reasons] if reasons else []),
        f"detector   {path}, in {detector.runtime.name}",
        *([f"threshold  {threshold:.4g} ({source})"] if threshold is not None else []),
        f"verdicts   {output / PREDICTIONS}",
        f"regions    {output / REGIONS}",
        *(f"{kind:<10} {output if kind == 'heatmaps' else output / kind}" for kind in flags.save),
    )
    return 1 if reasons else 0


def _default_output(dataset: str | None, class_name: str | None) -> Path:
    if not (dataset and class_name):
        return Path("predictions")
    return paths.output(dataset, "realnet", "vis", class_name) / "predictions"

"""Predict: verdicts and heatmaps for an image or a folder of images, without ground truth."""

from collections.abc import Sequence

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import RealNetConfig, paths

EPILOG = """\
reads    experiments/<dataset>/realnet_checkpoints/<class>/ckpt_last.pth, or else ckpt_best.pth (or --checkpoint)
writes   experiments/<dataset>/realnet_vis/<class>/predictions/ (or --output): predictions.csv, and for each image a
         heatmap that outlines the defects, under the image's own path
exit     1 if a file or folder could not be read, or a heatmap could not be written under its file's name (all other
         images are predicted), 2 if the input cannot be used
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict the images that the flags name; return the exit code."""
    parser = cli.parser(__doc__, class_name=True, epilog=EPILOG)
    parser.add_argument("--input", type=location, required=True, metavar="PATH", help="an image, or a folder of images")
    parser.add_argument("--output", type=location, metavar="DIR", help="where the verdicts and heatmaps go")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="threshold on the image score, instead of the calibrated one"
    )
    parser.add_argument("--checkpoint", type=location, metavar="FILE", help="a detector, instead of the class's own")
    parser.add_argument(
        "--batch_size",
        type=int,
        default=8,
        metavar="N",
        help="images processed at a time (default: 8); affects speed and memory, never a result",
    )
    flags = parser.parse_args(arguments)
    config = cli.load_config(RealNetConfig, "realnet", flags)

    from realnet.detection.detector import Detector
    from realnet.dry_run import plan
    from realnet.errors import UserError
    from realnet.prediction.inputs import find_images
    from realnet.prediction.run import PREDICTIONS, choose_detector, predict_files, protect_files, write_predictions
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.runtime.progress import bar, console

    if flags.threshold is not None and not 0 <= flags.threshold <= 1:
        raise UserError(f"--threshold {flags.threshold} must be an image score, from 0 to 1")
    if flags.batch_size < 1:
        raise UserError(f"--batch_size {flags.batch_size} must be at least 1")
    class_name, path = choose_detector(flags.dataset, flags.class_name, flags.checkpoint)
    output = flags.output or paths.output(flags.dataset, "realnet", "vis", class_name) / "predictions"
    found = find_images(flags.input, output=output)
    protect_files(found.root, found.files, output)
    known = {"config": config, "dataset": flags.dataset, "class_name": class_name}
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        detector = Detector.load(path, precision=world.precision.on("meta"), **known)
        plan.show(config, plan.prediction(detector, str(path), len(found.files), output, world), world)
        return 0
    with join_world(flags.device, config.runtime.precision) as world, console(world.is_main):
        detector = Detector.load(path, precision=world.precision, **known)
        verdicts = predict_files(
            detector,
            found.files,
            found.root,
            output,
            threshold=flags.threshold,
            batch_size=flags.batch_size,
            world=world,
        )
        shown = bar(verdicts, total=len(found.files), description=class_name, is_main=world.is_main)
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
        f"detector   {path}",
        *([f"threshold  {threshold:.4g} ({source})"] if threshold is not None else []),
        f"verdicts   {output / PREDICTIONS}",
        f"heatmaps   {output}",
    )
    return 1 if reasons else 0

"""Export a detector as one file for other machines: a bundle, ONNX or OpenVINO."""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realnet.commands import cli
from realnet.commands.cli import location

if TYPE_CHECKING:
    from realnet.data.images import Image
    from realnet.data.registry import OpenDataset
    from realnet.detection.detector import Detector

EPILOG = """\
reads    --detector, or experiments/<dataset>/realnet_checkpoints/<class>/ckpt_last.pth, or else ckpt_best.pth
writes   --output (default: <class>.realnet, .onnx or .xml beside the detector)
then     python predict_realnet.py --detector FILE --input PHOTOS

bundle      needs nothing else: no network, no pretrain/; loads with realnet.Detector.load (docs/bundle.md)
onnx        uint8 RGB (N, H, W, 3) in, maps and scores out; resizing stays outside (see the file's metadata)
openvino    the same, as .xml and .bin; --int8 rounds its convolutions to 8 bits, by the dataset's training images, and
            says what that changes over its test images
"""
NUM_IMAGES = 8
"""To compare an exported network with torch on."""
NUM_NORMAL = 32
"""To compare bfloat16 with float32 on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Export the detector that the flags name."""
    flags = _parser().parse_args(arguments)
    config = cli.load_config_of_use(flags)
    source, class_name = cli.find_detector(flags)

    import torch

    from realnet.detection.detector import Detector
    from realnet.runtime.precision import Precision

    exact = Precision(torch.float32, torch.device("cpu"))
    detector = Detector.load(source, precision=exact, config=config, dataset=flags.dataset, class_name=class_name)
    output = _output(flags, source, detector.class_name)
    dataset = _open_own_dataset(detector) if flags.int8 else None
    if flags.dry_run:
        print(f"would write {output}, from {source}")
        return
    if flags.format == "bundle":
        checked = _write_bundle(detector, source, output, flags)
    else:
        checked = _write_network(detector, output, flags, dataset)
    size = sum(path.stat().st_size for path in (output, output.with_suffix(".bin")) if path.is_file())
    cli.close(
        True,
        f"detector   {source}",
        *checked,
        f"written    {output} ({size / 1e6:.1f} MB)",
        f"next       python predict_realnet.py --detector {shlex.quote(str(output))} --input PHOTOS",
    )


def _output(flags: Namespace, source: Path, class_name: str | None) -> Path:
    """Return the file to write.

    Raises:
        UserError: if flags contradict its format, or it is the detector itself.
    """
    from realnet.detection.export import SUFFIXES
    from realnet.errors import UserError

    suffix = SUFFIXES[flags.format]
    output: Path = flags.output or source.with_name(f"{class_name or source.stem}{suffix}")
    if output.suffix != suffix:
        raise UserError(f"--output {output}: the suffix of the format {flags.format} is {suffix}")
    if flags.int8 and flags.format != "openvino":
        raise UserError(f"--int8 is for OpenVINO, not {flags.format}; add --format openvino")
    if flags.dynamic_size and flags.format == "bundle":
        raise UserError("--dynamic-size is for networks, not a bundle; add --format onnx or --format openvino")
    if flags.dynamic_size and flags.int8:
        raise UserError("--int8 measures what 8 bits change at the detector's own size; leave --dynamic-size out")
    if output.resolve() == source.resolve():
        raise UserError(f"--output {output} is the detector itself; give another name")
    return output


def _write_bundle(detector: "Detector", source: Path, output: Path, flags: Namespace) -> list[str]:
    """Write a bundle; return how bfloat16 compares with float32, where there are photographs to compare on."""
    from realnet.detection.card import make_card
    from realnet.detection.export import as_stored, export_bundle
    from realnet.detection.half_check import check_half
    from realnet.evaluation.cards import find_results

    pool = detector.config.evaluation.pool
    results = find_results(source, detector.dataset, detector.class_name, score_pool=pool)
    card = make_card(as_stored(detector, {}), source, results)
    is_free = detector.config.runtime.precision == "auto"
    photographs = _photographs(flags.images, detector, number=NUM_NORMAL, only_normal=True) if is_free else []
    half = check_half(detector, photographs) if photographs else None
    export_bundle(
        detector,
        output,
        with_backbone=not flags.without_backbone,
        storage=flags.storage,
        texts=card.texts() if card else None,
        half=half,
    )
    return [f"bf16       {half}"] if half else []


def _write_network(detector: "Detector", output: Path, flags: Namespace, dataset: "OpenDataset | None") -> list[str]:
    """Write a network for another runtime, in 8 bits by the dataset if there is one; return what the check found."""
    from realnet.detection.export import export_network
    from realnet.evaluation.int8 import export_int8
    from realnet.runtime.distributed import join_world

    images = _images(flags.images, detector)
    if dataset is None:
        found = export_network(detector, output, images=images, dynamic_size=flags.dynamic_size)
        return [f"checked    {parity}; an image takes {1000 * parity.seconds:.0f} ms" for parity in found]
    with join_world("cpu", "fp32") as world:
        change = export_int8(detector, output, dataset, images=images, world=world)
    return [f"int8       {line}" for line in change.lines()]


def _parser() -> ArgumentParser:
    parser = cli.detector_parser(__doc__, epilog=EPILOG)
    parser.add_argument("--format", choices=("bundle", "onnx", "openvino"), default="bundle", help="default: bundle")
    parser.add_argument("--output", type=location, metavar="FILE", help="the file to write; its suffix is the format's")
    parser.add_argument(
        "--without-backbone", action="store_true", help="a smaller bundle, which needs the backbone's weights to load"
    )
    parser.add_argument(
        "--storage",
        choices=("float32", "bfloat16"),
        default="float32",
        help="number format of a bundle's weights of layers; bfloat16 halves their space and moved scores of real "
        "photographs by up to 0.04 (docs/bundle.md)",
    )
    parser.add_argument(
        "--images",
        type=location,
        metavar="PATH",
        help="photographs to compare the exported network with torch on, and bfloat16 with float32 (default: the "
        "dataset's; where it is not here, the network is compared on drawings, and bfloat16 not at all)",
    )
    parser.add_argument(
        "--dynamic-size",
        action="store_true",
        help="with --format onnx or openvino: the network takes images of other sizes too, where nothing in the "
        "detector has one size (docs/bundle.md)",
    )
    parser.add_argument("--int8", action="store_true", help="with --format openvino: convolutions in 8 bits")
    return parser


def _open_own_dataset(detector: "Detector") -> "OpenDataset":
    """Return the dataset that a detector was trained on.

    Raises:
        UserError: if NNCF is not installed, or the dataset is not here.
    """
    from realnet.config import experiments
    from realnet.data.registry import open_dataset
    from realnet.detection.runtimes import import_extra
    from realnet.errors import UserError

    import_extra("nncf")
    if detector.dataset not in experiments() or not detector.class_name:
        raise UserError(
            f"--int8 needs training and test images of the dataset {detector.dataset!r}, which is not in experiments/; "
            "export where the detector was trained, or without --int8"
        )
    return open_dataset(detector.dataset)


def _images(given: Path | None, detector: "Detector") -> "list[Image]":
    """Return photographs to compare on: the given ones, those of the detector's dataset, or else the toy's drawings."""
    from realnet.preparation.toy import draw_photographs

    found = _photographs(given, detector, number=NUM_IMAGES)
    return found or draw_photographs(NUM_IMAGES, detector.config.image_size)


def _photographs(given: Path | None, detector: "Detector", *, number: int, only_normal: bool = False) -> "list[Image]":
    """Return at most ``number`` photographs: the given ones, or those of the detector's dataset if it is here.

    Normal ones are those of the test split, or without one of the training split.
    """
    from realnet.config import experiments
    from realnet.data.images import read_image
    from realnet.data.order import spread
    from realnet.data.registry import open_dataset
    from realnet.errors import UserError
    from realnet.prediction.inputs import find_images

    if given is not None:
        found = find_images(given, output=Path())
        return [read_image(found.root / name, detector.image_bits) for name in found.files[:number]]
    if detector.dataset not in experiments() or not detector.class_name:
        return []
    dataset = open_dataset(detector.dataset)
    try:
        names = detector.facts.get("classes") or [detector.class_name]
        indexes = [dataset.index(name, write=False) for name in names]
        entries = [entry for index in indexes for entry in (*index.test, *index.train)]
        if only_normal:
            unseen = [entry for index in indexes for entry in index.test if not entry.label]
            entries = unseen or [entry for index in indexes for entry in index.train]
        chosen = [entries[index] for index in spread(len(entries), min(number, len(entries)))]
        return [read_image(dataset.image_root / entry.filename, detector.image_bits) for entry in chosen]
    except UserError as error:
        print(f"the images of {detector.dataset} cannot be used, so none of them is compared ({error})")
        return []

"""Export a detector as one file for other machines: a bundle, ONNX or OpenVINO."""

import shlex
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Export the detector that the flags name."""
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
        help="photographs to compare the exported network with torch on (default: the dataset's, else the toy's)",
    )
    parser.add_argument("--int8", action="store_true", help="with --format openvino: convolutions in 8 bits")
    flags = parser.parse_args(arguments)
    config = cli.load_config_of_use(flags)
    source, class_name = cli.find_detector(flags)

    import torch

    from realnet.detection.card import make_card
    from realnet.detection.detector import Detector
    from realnet.detection.export import SUFFIXES, as_stored, export_bundle, export_network
    from realnet.errors import UserError
    from realnet.evaluation.cards import find_results
    from realnet.runtime.precision import Precision

    exact = Precision(torch.float32, torch.device("cpu"))
    detector = Detector.load(source, precision=exact, config=config, dataset=flags.dataset, class_name=class_name)
    suffix = SUFFIXES[flags.format]
    output = flags.output or source.with_name(f"{detector.class_name or source.stem}{suffix}")
    if output.suffix != suffix:
        raise UserError(f"--output {output}: the suffix of the format {flags.format} is {suffix}")
    if flags.int8 and flags.format != "openvino":
        raise UserError(f"--int8 is for OpenVINO, not {flags.format}; add --format openvino")
    dataset = _open_own_dataset(detector) if flags.int8 else None
    if output.resolve() == source.resolve():
        raise UserError(f"--output {output} is the detector itself; give another name")
    if flags.dry_run:
        print(f"would write {output}, from {source}")
        return
    checked: list[str] = []
    if flags.format == "bundle":
        pool = detector.config.evaluation.pool
        results = find_results(source, detector.dataset, detector.class_name, score_pool=pool)
        card = make_card(as_stored(detector, {}), source, results)
        export_bundle(
            detector,
            output,
            with_backbone=not flags.without_backbone,
            storage=flags.storage,
            texts=card.texts() if card else None,
        )
    elif dataset:
        from realnet.evaluation.int8 import export_int8
        from realnet.runtime.distributed import join_world

        with join_world("cpu", "fp32") as world:
            images = _images(flags.images, detector)
            checked = [
                f"int8       {line}"
                for line in export_int8(detector, output, dataset, images=images, world=world).lines()
            ]
    else:
        images = _images(flags.images, detector)
        checked = [
            f"checked    {parity}; an image takes {1000 * parity.seconds:.0f} ms"
            for parity in export_network(detector, output, images=images)
        ]
    size = sum(path.stat().st_size for path in (output, output.with_suffix(".bin")) if path.is_file())
    cli.close(
        True,
        f"detector   {source}",
        *checked,
        f"written    {output} ({size / 1e6:.1f} MB)",
        f"next       python predict_realnet.py --detector {shlex.quote(str(output))} --input PHOTOS",
    )


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
    """Return photographs: the given ones, those of the detector's dataset, or else drawings of the toy's."""
    import numpy as np

    from realnet.config import experiments
    from realnet.data.images import read_image
    from realnet.data.registry import open_dataset
    from realnet.errors import UserError
    from realnet.prediction.inputs import find_images
    from realnet.preparation.toy import draw_photographs

    if given is not None:
        found = find_images(given, output=Path())
        return [read_image(found.root / name, detector.image_bits) for name in found.files[:NUM_IMAGES]]
    if detector.dataset in experiments() and detector.class_name:
        dataset = open_dataset(detector.dataset)
        try:
            names = detector.facts.get("classes") or [detector.class_name]
            indexes = [dataset.index(name, write=False) for name in names]
            entries = [entry for index in indexes for entry in (*index.test, *index.train)]
            chosen = [entries[i] for i in np.linspace(0, len(entries) - 1, min(NUM_IMAGES, len(entries))).astype(int)]
            return [read_image(dataset.image_root / entry.filename, detector.image_bits) for entry in chosen]
        except UserError as error:
            print(f"the images of {detector.dataset} cannot be used, so drawings are compared ({error})")
    return draw_photographs(NUM_IMAGES, detector.config.image_size)

"""Stage 4: train the detector of one class or several (AFS, reconstruction, RRS)."""

from collections.abc import Sequence

from realnet import cli
from realnet.config import RealNetConfig

EPILOG = """\
reads    data/<dataset>/…, the SDAS images of stage 3 (or DTD textures, or the images themselves: anomalies.types)
writes   experiments/<dataset>/realnet_checkpoints/<class>/ckpt_last.pth and ckpt_best.pth
then     python evaluation_realnet.py --dataset <dataset> --class_name <class>
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the detectors that the flags name, one after the other."""
    flags = cli.parser(__doc__, class_name=True, resume=True, epilog=EPILOG).parse_args(arguments)
    config = cli.load_config(RealNetConfig, "realnet", flags)

    from realnet.data.registry import open_dataset
    from realnet.data.synthesis import build_synthesizer
    from realnet.distributed import process
    from realnet.training.detector import DetectorData, train_detector

    dataset = open_dataset(flags.dataset)
    jobs = []
    for class_name in cli.choose_classes(flags.class_name, dataset.classes, flags.dataset):
        index = dataset.index(class_name)
        synthesizer = build_synthesizer(
            config.anomalies,
            dataset.name,
            class_name,
            image_size=config.image_size,
            foreground=dataset.config.foreground_of(class_name),
        )
        jobs.append(DetectorData(dataset.name, class_name, dataset.image_root, index.train, index.test, synthesizer))
    with process(flags.device) as this:
        for data in jobs:
            train_detector(config, data, this, resume=flags.resume)


if __name__ == "__main__":
    cli.run(main)

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

    from realnet import plan
    from realnet.data.registry import open_dataset
    from realnet.distributed import planned, process
    from realnet.errors import for_each
    from realnet.networks import settle
    from realnet.training.batches import require_batches
    from realnet.training.detector import detector_data, train_detector

    config = settle(config)
    dataset = open_dataset(flags.dataset)
    classes = cli.choose_classes(flags.class_name, dataset.classes, flags.dataset)
    jobs = for_each(lambda name: detector_data(dataset, name, config), classes)
    if flags.dry_run:
        this = planned(flags.device)
        plan.show(config, plan.detectors(config, jobs, this, resume=flags.resume), this)
        return
    with process(flags.device) as this, this.stop:
        require_batches({data.class_name: len(data.train) for data in jobs}, config.train, this.world_size)
        for data in jobs:
            last = train_detector(config, data, this, resume=flags.resume)
            cli.close(this.is_main, f"weights    {last}")
        names = " ".join(flags.class_name)
        cli.close(
            this.is_main, f"next       python evaluation_realnet.py --dataset {flags.dataset} --class_name {names}"
        )


if __name__ == "__main__":
    cli.run(main)

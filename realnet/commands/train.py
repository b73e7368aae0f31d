"""Stage 4: train the detector of one class or several (AFS, reconstruction, RRS)."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from realnet.commands import cli
from realnet.config import RealNetConfig

EPILOG = """\
reads    data/<dataset>/…, the SDAS images of stage 3 (or DTD textures, or the images themselves: anomalies.types)
writes   experiments/<dataset>/realnet_checkpoints/<class>/ckpt_last.pth and ckpt_best.pth; with --seeds, the same in
         <class>/seed_<N>/ for each seed; with --class_name unified, in unified/ one detector of all classes
then     python evaluation_realnet.py --dataset <dataset> --class_name <class>
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the detectors that the flags name, one after the other."""
    parser = cli.parser(__doc__, class_name=True, resume=True, seeds=True, epilog=EPILOG)
    parser.add_argument(
        "--preset",
        choices=("published", "cpu"),
        help="the defaults to start from; cpu: a small detector that trains in minutes without a GPU",
    )
    flags = parser.parse_args(arguments)
    flags.overrides[:0] = cli.overrides({"preset": flags.preset})
    seeds = cli.seeds_of(flags)
    config = cli.load_config(RealNetConfig, "realnet", flags)

    from realnet.data.registry import open_dataset
    from realnet.dry_run import plan
    from realnet.errors import for_each
    from realnet.models.build import settle
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.training.batches import require_batches
    from realnet.training.detector_data import detector_data
    from realnet.training.detector_task import train_detector

    config = settle(config)
    dataset = open_dataset(flags.dataset)
    classes = cli.choose_detectors(flags.class_name, dataset.classes, flags.dataset)
    found = for_each(lambda name: detector_data(dataset, name, config), classes)
    jobs = [replace(data, seed=seed) for data in found for seed in seeds]
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        plan.show(config, plan.detectors(config, jobs, world, resume=flags.resume), world)
        return
    with join_world(flags.device, config.runtime.precision) as world, world.stop:
        require_batches({data.class_name: len(data.train) for data in jobs}, config.train, world.size)
        for data in jobs:
            last = train_detector(config, data, world, resume=flags.resume)
            cli.close(world.is_main, f"weights    {last}")
        names = shlex.join(flags.class_name)
        command = f"python evaluation_realnet.py --dataset {shlex.quote(flags.dataset)} --class_name {names}"
        if flags.seeds:
            command += f" --seeds {shlex.join(map(str, flags.seeds))}"
        cli.close(world.is_main, f"next       {command}")

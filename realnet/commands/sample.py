"""Stage 3: sample anomalous images of each class from the diffusion model (SDAS), at the strength you choose."""

import shlex
from collections.abc import Sequence

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import SampleConfig, paths

EPILOG = """\
reads    experiments/<dataset>/diffusion_checkpoints/ckpt_last.pth, and the classifier's, if there is one
writes   data/<dataset>/sdas/<class>/00000.jpg …, manifest.csv (seed, strength and checkpoint of every image)
then     python train_realnet.py --dataset <dataset>

--strength 0 0 makes normal images; the paper's detectors train on 0.1 to 0.2. Use --output to try other settings.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample the classes that the flags name."""
    parser = cli.parser(__doc__, resume=True, epilog=EPILOG)
    parser.add_argument("--classes", nargs="+", default=["all"], metavar="CLASS", help="which classes (default: all)")
    parser.add_argument(
        "--strength", nargs=2, type=float, metavar=("LO", "HI"), help="anomaly strength, drawn per image"
    )
    parser.add_argument("--num_samples", type=int, metavar="N", help="images per class")
    parser.add_argument("--no-guidance", action="store_true", help="sample without the classifier")
    parser.add_argument("--format", choices=("jpg", "png"), help="file format of the images")
    parser.add_argument("--output", type=location, metavar="DIR", help="a folder instead of data/<dataset>/sdas")
    flags = parser.parse_args(arguments)
    flags.overrides += cli.overrides(
        {
            "strength": flags.strength,
            "num_samples": flags.num_samples,
            "guidance": False if flags.no_guidance else None,
            "format": flags.format,
        }
    )
    config = cli.load_config(SampleConfig, "sample", flags)

    from realnet.data.registry import open_dataset
    from realnet.dry_run import plan
    from realnet.errors import UserError
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.runtime.progress import console
    from realnet.sdas.readiness import is_ready, verdict
    from realnet.sdas.sampler import load_sampler, sample_class

    dataset = open_dataset(flags.dataset)
    named = cli.choose_detectors(flags.classes, dataset.classes, flags.dataset)
    classes = list(dict.fromkeys(one for name in named for one in dataset.classes_of(name)))
    root = flags.output or paths.DATA / flags.dataset / "sdas"
    if root.is_file():
        raise UserError(f"--output {root} is a file; give a folder")
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        sampler = load_sampler(flags.dataset, config, dataset.classes, world.precision.on("meta"))
        plan.show(config, plan.sampling(config, sampler, classes, root, world, resume=flags.resume), world)
        return
    with join_world(flags.device, config.runtime.precision) as world, world.stop, console(world.is_main):
        sampler = load_sampler(flags.dataset, config, dataset.classes, world.precision)
        if world.is_main and not is_ready(sampler.health):
            print(f"WARNING: the diffusion model is {verdict(sampler.health)}")
        for class_name in classes:
            number = sample_class(sampler, class_name, config, root / class_name, world, resume=flags.resume)
            cli.close(
                world.is_main, f"{class_name}: {number} new images of {config.num_samples} in {root / class_name}"
            )
        cli.close(world.is_main, f"next       python train_realnet.py --dataset {shlex.quote(flags.dataset)}")

"""Stage 1: train a dataset's diffusion model on the normal images of all its classes."""

import shlex
from collections.abc import Sequence

from realnet.commands import cli
from realnet.config import DiffusionConfig

EPILOG = """\
reads    the normal training images of all classes; pretrain/256x256_diffusion.pt unless pretrained is null
writes   experiments/<dataset>/diffusion_checkpoints/ckpt_last.pth, diffusion_vis/ (is it ready?), diffusion_log/
then     python train_classifier.py --dataset <dataset>   (optional), then sample.py
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the diffusion model, or resume its training."""
    parser = cli.parser(__doc__, resume=True, epilog=EPILOG)
    parser.add_argument(
        "--until",
        choices=("end", "ready"),
        help="ready: stop at the first validation that finds the model ready; the configured length is the most",
    )
    flags = parser.parse_args(arguments)
    flags.overrides += cli.overrides({"validation.until": flags.until})
    config = cli.load_config(DiffusionConfig, "diffusion", flags)

    from realnet.dry_run import plan
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.training.diffusion_task import normal_images, train_diffusion

    data = normal_images(flags.dataset)
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        plan.show(config, plan.diffusion(config, data, world, resume=flags.resume), world)
        return
    with join_world(flags.device, config.runtime.precision) as world, world.stop:
        last = train_diffusion(config, data, world, resume=flags.resume)
        cli.close(
            world.is_main,
            f"weights    {last}",
            f"panels     experiments/{flags.dataset}/diffusion_vis",
            f"next       python train_classifier.py --dataset {shlex.quote(flags.dataset)}   (optional)",
            f"           python sample.py --dataset {shlex.quote(flags.dataset)}",
        )

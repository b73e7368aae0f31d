"""Stage 2, optional: train the noise-aware classifier that guides sampling; a dataset of one class needs none."""

import shlex
from collections.abc import Sequence

from realnet.commands import cli
from realnet.config import ClassifierConfig

EPILOG = """\
reads    the normal training images of all classes; pretrain/256x256_classifier.pt unless pretrained is null
writes   experiments/<dataset>/classifier_checkpoints/ckpt_last.pth, classifier_log/
then     python sample.py --dataset <dataset>
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the classifier, or resume its training."""
    flags = cli.parser(__doc__, resume=True, epilog=EPILOG).parse_args(arguments)
    config = cli.load_config(ClassifierConfig, "classifier", flags)

    from realnet.dry_run import plan
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.training.classifier_task import check_classes, train_classifier
    from realnet.training.diffusion_task import normal_images

    data = normal_images(flags.dataset)
    check_classes(data)
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        plan.show(config, plan.classifier(config, data, world, resume=flags.resume), world)
        return
    with join_world(flags.device, config.runtime.precision) as world, world.stop:
        last = train_classifier(config, data, world, resume=flags.resume)
        cli.close(
            world.is_main, f"weights    {last}", f"next       python sample.py --dataset {shlex.quote(flags.dataset)}"
        )

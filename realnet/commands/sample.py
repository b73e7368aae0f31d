"""Stage 3: sample anomalous images of each class from the diffusion model (SDAS), at the strength you choose."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import SampleConfig, paths

if TYPE_CHECKING:
    from realnet.runtime.distributed import World
    from realnet.sdas.sampler import Sampler

EPILOG = """\
reads    experiments/<dataset>/diffusion_checkpoints/ckpt_last.pth, and the classifier's, if there is one
writes   data/<dataset>/sdas/<class>/00000.jpg …, manifest.csv (seed, strength, checkpoint and scores of
         every image), quality.json (scores of all)
then     python train_realnet.py --dataset <dataset>

--strength 0 0 makes normal images; the paper's detectors train on 0.1 to 0.2. --preview draws a few images of each
class at strengths from 0 to 0.6 into experiments/<dataset>/sample_vis. Use --output to try other settings.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample the classes that the flags name."""
    parser = cli.parser(__doc__, resume=True, epilog=EPILOG)
    parser.add_argument("--classes", nargs="+", default=["all"], metavar="CLASS", help="which classes (default: all)")
    parser.add_argument(
        "--strength", nargs=2, type=float, metavar=("LO", "HI"), help="anomaly strength, drawn per image"
    )
    parser.add_argument("--num_samples", type=int, metavar="N", help="images per class")
    parser.add_argument(
        "--preview", action="store_true", help="only draw a sheet of each class at growing strengths, to choose by"
    )
    parser.add_argument(
        "--force", action="store_true", help="sample a diffusion model whose validation says that it is not ready"
    )
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
            "require_ready": False if flags.force or flags.preview else None,
        }
    )
    config = cli.load_config(SampleConfig, "sample", flags)

    from realnet.data.registry import open_dataset
    from realnet.data.sheets import require_replaceable
    from realnet.dry_run import plan
    from realnet.errors import UserError
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.runtime.progress import console
    from realnet.sdas.preview import NUM_IMAGES, STRENGTHS
    from realnet.sdas.sampler import load_sampler, sample_class
    from realnet.sdas.scoring import Scorer

    dataset = open_dataset(flags.dataset)
    named = cli.choose_detectors(flags.classes, dataset.classes, flags.dataset)
    classes = list(dict.fromkeys(one for name in named for one in dataset.classes_of(name)))
    _check_strengths(config, dataset.classes, flags.dataset)
    root = flags.output or (
        paths.output(flags.dataset, "sample", "vis") if flags.preview else paths.DATA / flags.dataset / "sdas"
    )
    if root.is_file():
        raise UserError(f"--output {root} is a file; give a folder")
    if flags.preview and flags.output:
        require_replaceable(root / f"{name}.png" for name in classes)
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        sampler = load_sampler(flags.dataset, config, dataset.classes, world.precision.on("meta"))
        _require_ready(sampler, config, flags.dataset)
        if flags.preview:
            config = config.model_copy(update={"num_samples": len(STRENGTHS) * NUM_IMAGES})
        plan.show(config, plan.sampling(config, sampler, classes, root, world, resume=flags.resume), world)
        return
    with join_world(flags.device, config.runtime.precision) as world, world.stop, console(world.is_main):
        sampler = load_sampler(flags.dataset, config, dataset.classes, world.precision)
        warning = _require_ready(sampler, config, flags.dataset)
        cli.close(world.is_main, *warning)
        if flags.preview:
            _preview(sampler, classes, config, root, world)
            return
        scorer = Scorer(dataset, sampler.image_size, world)
        for class_name in classes:
            folder = root / class_name
            number = sample_class(sampler, class_name, config, folder, world, scorer=scorer, resume=flags.resume)
            cli.close(world.is_main, f"{class_name}: {number} new images of {config.num_samples} in {folder}")
        cli.close(world.is_main, f"next       python train_realnet.py --dataset {shlex.quote(flags.dataset)}")


def _require_ready(sampler: "Sampler", config: SampleConfig, dataset: str) -> list[str]:
    """Check the readiness of the diffusion model; return the lines of a warning, if there is reason for one.

    Raises:
        UserError: if its validation says that it is not ready, and the config requires it.
    """
    from realnet.errors import UserError
    from realnet.sdas.readiness import readiness, verdict

    state, says = readiness(sampler.health), f"the diffusion model is {verdict(sampler.health)}"
    if state == "unready" and config.require_ready:
        longer = "train.num_steps or train.num_epochs"
        if not sampler.health:
            advice = "Go on with its training"
        elif sampler.has_schedule:
            advice = f"Finish its training, or start anew with more {longer} (--no-resume), which its schedule follows"
        else:
            advice = f"Train it on, with more {longer}"
        raise UserError(
            f"{says}. {advice}: python train_diffusion.py --dataset {shlex.quote(dataset)} --until ready; or sample it "
            "as it is, with --force (require_ready: false)"
        )
    return [] if state == "ready" else [f"WARNING: {says}"]


def _check_strengths(config: SampleConfig, classes: Sequence[str], dataset: str) -> None:
    from realnet.errors import UserError

    unknown = [name for name in config.strength if name not in classes] if isinstance(config.strength, dict) else []
    if unknown:
        raise UserError(
            f"strength: {dataset} has no class {', '.join(map(repr, unknown))}; its classes: {', '.join(classes)}"
        )


def _preview(sampler: "Sampler", classes: Sequence[str], config: SampleConfig, root: Path, world: "World") -> None:
    """Write a sheet for each class; one process draws, and says where they are and what comes next."""
    from realnet.data.sheets import write_sheet
    from realnet.errors import Stopped
    from realnet.runtime import distributed
    from realnet.sdas.preview import strengths_sheet

    with distributed.refusing_together(), suppress(Stopped):
        for class_name in classes if world.is_main else ():
            path = root / f"{class_name}.png"
            write_sheet(path, strengths_sheet(sampler, class_name, config, world))
            cli.close(True, f"preview    {path}")
    if distributed.any_process(world.stop.asked):
        raise Stopped
    cli.close(
        world.is_main, "next       python sample.py … --strength LO HI, or strength in sample.yaml, also by class"
    )

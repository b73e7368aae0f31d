"""Stage 5: evaluate the detectors of one class or several on their test splits."""

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import RealNetConfig, paths

if TYPE_CHECKING:
    from realnet.evaluation.results import ClassResult

EPILOG = """\
reads    experiments/<dataset>/realnet_checkpoints/<class>/: ckpt_last.pth (chosen without test data) and
         ckpt_best.pth (best on the test split, as published); the test images and masks under data/<dataset>
writes   experiments/<dataset>/realnet_vis/<class>/: last/ and best/ with a heatmap of each test image, report.html,
         metrics.json; beside the classes: report.html, metrics.json, metrics.csv of all classes evaluated so far
exit     1 if a class was left out, 2 if the input cannot be used

Results are reused if weights, settings, test images and masks are unchanged; --no-resume evaluates everything again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the classes that the flags name; return the exit code."""
    parser = cli.parser(__doc__, class_name=True, resume=True, epilog=EPILOG)
    parser.add_argument(
        "--checkpoint",
        type=location,
        metavar="FILE",
        help="evaluate this file, of one class; realnet.yaml (or --config) describes a published one",
    )
    parser.add_argument(
        "--references",
        nargs="+",
        choices=("padim", "nearest", "only"),
        default=[],
        help="also fit simple detectors to the same features and show their results beside RealNet's; only: fit both, "
        "and evaluate no checkpoint, to see before any training what the features can do",
    )
    flags = parser.parse_args(arguments)
    config = cli.load_config(RealNetConfig, "realnet", flags)

    from realnet.data.registry import open_dataset
    from realnet.detection.checkpoints import REFERENCES, find_checkpoints, missing_checkpoint
    from realnet.dry_run import plan
    from realnet.errors import UserError, message_of
    from realnet.reporting.class_report import report_class, results_folder
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.runtime.progress import console

    is_alone = "only" in flags.references
    references = [name for name in REFERENCES if name in flags.references or set(flags.references) == {"only"}]
    part: Literal["given", "references"] | None = "references" if is_alone else "given" if flags.checkpoint else None
    if is_alone and flags.checkpoint:
        raise UserError("--references only takes no --checkpoint; leave one of the two out, or name padim or nearest")
    dataset = open_dataset(flags.dataset)
    classes = cli.choose_classes(flags.class_name, dataset.classes, flags.dataset)
    if flags.checkpoint and len(classes) > 1:
        raise UserError(f"--checkpoint {flags.checkpoint} is for one class, got {len(classes)}; give --class_name C")
    chosen = {name: {} if is_alone else find_checkpoints(dataset.name, name, flags.checkpoint) for name in classes}
    failed = {n: missing_checkpoint(dataset.name, n) for n, found in chosen.items() if not (found or is_alone)}
    if len(failed) == len(classes):
        raise UserError("\n".join(failed.values()))
    chosen = {name: found for name, found in chosen.items() if name not in failed}
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        plan.show(config, plan.evaluation(config, dataset, chosen, world, references=references), world)
        if world.is_main:
            _show_left_out(failed)
        return 1 if failed else 0

    results: list[ClassResult] = []
    with join_world(flags.device, config.runtime.precision) as world, console(world.is_main):
        for name, checkpoints in chosen.items():
            folder = results_folder(dataset.name, name, part)
            try:
                result = report_class(
                    dataset,
                    name,
                    checkpoints,
                    config=config,
                    world=world,
                    folder=folder,
                    references=references,
                    resume=flags.resume,
                )
            except UserError as error:
                failed[name] = message_of(error)
            else:
                results.append(result)
        if not results:
            raise UserError("\n".join(failed.values()))
        if world.is_main:
            _show(results, dataset.classes)
            _show_left_out(failed)
            _write_pages(results, dataset.classes, failed, part)
        return 1 if failed else 0


def _show(results: "Sequence[ClassResult]", classes: Sequence[str]) -> None:
    """Print the tables, and how many images the thresholds judge wrongly."""
    from realnet.reporting import tables

    for table in tables.tables(results, classes):
        print("", *tables.console_lines(results[0].dataset, table), sep="\n")
    print("", *tables.verdict_lines(results), "", sep="\n")


def _show_left_out(failed: Mapping[str, str]) -> None:
    if failed:
        print("left out", *(f"{name}: {reason}" for name, reason in failed.items()), "", sep="\n")


def _write_pages(
    results: "Sequence[ClassResult]",
    classes: Sequence[str],
    failed: Container[str],
    part: 'Literal["given", "references"] | None',
) -> None:
    """Write the dataset's results, unless these are only part of an evaluation, and print where everything is."""
    from realnet.detection.checkpoints import PROTOCOLS
    from realnet.evaluation.results import METRICS_CSV, METRICS_JSON, REPORT, collect, write_dataset
    from realnet.reporting.class_report import heatmaps_folder, results_folder
    from realnet.reporting.pages import write_dataset_page
    from realnet.reporting.tables import means

    dataset, name = results[0].dataset, results[0].class_name if len(results) == 1 else "<class>"
    folder, root = results_folder(dataset, name, part), paths.output(dataset, "realnet", "vis")
    made = [protocol for protocol in PROTOCOLS if any(protocol in result.pictured() for result in results)]
    lines = [f"heatmaps   {heatmaps_folder(folder, protocol)}" for protocol in made]
    lines += [f"report     {folder / REPORT}", f"numbers    {folder / METRICS_JSON}"]
    if part is None:
        evaluated = collect(dataset, [name for name in classes if name not in failed], results)
        write_dataset(root, evaluated, means(evaluated))
        write_dataset_page(root, evaluated, classes)
        number = f"{len(evaluated)} of {len(classes)} classes"
        lines += [f"table      {root / METRICS_CSV} ({number})", f"report     {root / REPORT} ({number})"]
    cli.close(True, *lines)

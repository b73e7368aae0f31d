"""Stage 5: evaluate the detectors of one class or several on their test splits."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from realnet.commands import cli
from realnet.commands.cli import location
from realnet.config import RealNetConfig, paths

if TYPE_CHECKING:
    from realnet.data.registry import OpenDataset
    from realnet.detection.checkpoints import Subject
    from realnet.evaluation.results import ClassResult

EPILOG = """\
reads    experiments/<dataset>/realnet_checkpoints/<class>/: ckpt_last.pth (chosen without test data) and
         ckpt_best.pth (best on the test split, as published); the test images and masks under data/<dataset>
writes   experiments/<dataset>/realnet_vis/<class>/: last/ and best/ with a heatmap of each test image, report.html,
         metrics.json; beside the classes: report.html, metrics.json, metrics.csv of all classes evaluated so far
         with --seeds: the same by seed in <class>/seed_<N>/; beside the classes report_seeds.html, metrics_seeds.json
         and metrics_seeds.csv with mean and spread (standard deviation, n - 1)
         of the detector of all classes: the same by class in unified/<class>/, and a table beside the classes' own
exit     1 if a class was left out, 2 if the input cannot be used

Results are reused if weights, settings, test images and masks are unchanged; --no-resume evaluates everything again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the classes that the flags name; return the exit code."""
    flags = _parser().parse_args(arguments)
    seeds = cli.seeds_of(flags)
    config = cli.load_config(RealNetConfig, "realnet", flags)

    from realnet.data.registry import UNIFIED, open_dataset
    from realnet.detection.checkpoints import REFERENCES, find_checkpoints, missing_checkpoint
    from realnet.dry_run import plan
    from realnet.errors import UserError, message_of
    from realnet.evaluation.results import collect, results_folder
    from realnet.evaluation.seeds import unlike
    from realnet.reporting.class_report import report_class
    from realnet.runtime.distributed import join_world, plan_world
    from realnet.runtime.progress import console

    is_alone = "only" in flags.references
    references = [name for name in REFERENCES if name in flags.references or set(flags.references) == {"only"}]
    part: Literal["given", "references"] | None = "references" if is_alone else "given" if flags.checkpoint else None
    if is_alone and flags.checkpoint:
        raise UserError("--references only takes no --checkpoint; leave one of the two out, or name padim or nearest")
    dataset = open_dataset(flags.dataset)
    names = cli.choose_detectors(flags.class_name, dataset.classes, flags.dataset)
    if flags.checkpoint and len(names) > 1:
        raise UserError(f"--checkpoint {flags.checkpoint} is for one class, got {len(names)}; give --class_name C")
    if flags.checkpoint and flags.seeds:
        raise UserError(f"--checkpoint {flags.checkpoint} is one detector, --seeds names several; leave one out")
    subjects = _subjects(dataset, names, seeds)
    chosen = {one: {} if is_alone else find_checkpoints(dataset.name, one, flags.checkpoint) for one in subjects}
    failed = {one: missing_checkpoint(dataset.name, one) for one in subjects if not (chosen[one] or is_alone)}
    failed |= unlike(chosen)
    if len(failed) == len(subjects):
        raise UserError("\n".join(dict.fromkeys(failed.values())))
    chosen = {one: found for one, found in chosen.items() if one not in failed}
    if flags.dry_run:
        world = plan_world(flags.device, config.runtime.precision)
        plan.show(config, plan.evaluation(config, dataset, chosen, world, references=references), world)
        if world.is_main:
            _show_left_out(failed)
        return 1 if failed else 0

    results: list[ClassResult] = []
    with join_world(flags.device, config.runtime.precision) as world, console(world.is_main):
        for one, checkpoints in chosen.items():
            try:
                result = report_class(
                    dataset,
                    one,
                    checkpoints,
                    config=config.seeded(one.seed),
                    world=world,
                    folder=results_folder(dataset.name, one, part),
                    references=references,
                    resume=flags.resume,
                )
            except UserError as error:
                failed[one] = message_of(error)
            else:
                results.append(result)
        if not results:
            raise UserError("\n".join(dict.fromkeys(failed.values())))
        if world.is_main:
            wanted = [one for one in _subjects(dataset, [*dataset.classes, UNIFIED], seeds) if one not in failed]
            known = results if part else collect(dataset.name, wanted, results)
            _show(results, dataset.classes, known)
            _show_left_out(failed)
            _write_pages(results, dataset.classes, known, part)
        return 1 if failed else 0


def _parser() -> ArgumentParser:
    parser = cli.parser(__doc__, class_name=True, resume=True, seeds=True, epilog=EPILOG)
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
    return parser


def _subjects(dataset: "OpenDataset", names: Sequence[str], seeds: Sequence[int | None]) -> "list[Subject]":
    """Return what detectors, by their names, judge: each class, by the detectors of each seed."""
    from realnet.data.registry import is_unified
    from realnet.detection.checkpoints import Subject

    pairs = [(one, is_unified(name, dataset.classes)) for name in names for one in dataset.classes_of(name)]
    return list(dict.fromkeys(Subject(one, seed, joint) for one, joint in pairs for seed in seeds))


def _show(results: "Sequence[ClassResult]", classes: Sequence[str], known: "Sequence[ClassResult]") -> None:
    """Print the tables, and how many images the thresholds judge wrongly."""
    from realnet.reporting import tables

    for table in tables.tables(results, classes, known):
        print("", *tables.console_lines(results[0].dataset, table), sep="\n")
    print("", *tables.verdict_lines(results), "", sep="\n")


def _show_left_out(failed: "Mapping[Subject, str]") -> None:
    if failed:
        reasons = {reason: [str(one) for one in failed if failed[one] == reason] for reason in failed.values()}
        print("left out", *(f"{'; '.join(names)}: {reason}" for reason, names in reasons.items()), "", sep="\n")


def _write_pages(
    results: "Sequence[ClassResult]",
    classes: Sequence[str],
    evaluated: "Sequence[ClassResult]",
    part: 'Literal["given", "references"] | None',
) -> None:
    """Write the dataset's results, unless these are only part of an evaluation, and print where everything is."""
    from realnet.detection.checkpoints import PROTOCOLS
    from realnet.evaluation.results import METRICS_JSON, REPORT
    from realnet.reporting.class_report import heatmaps_folder

    root = paths.output(results[0].dataset, "realnet", "vis")
    several = Path("<class>", "" if results[0].seed is None else "seed_<N>")
    folder = root / (results[0].subject.place if len(results) == 1 else several) / (part or "")
    made = [protocol for protocol in PROTOCOLS if any(protocol in result.pictured() for result in results)]
    lines = [f"heatmaps   {heatmaps_folder(folder, protocol)}" for protocol in made]
    lines += [f"report     {folder / REPORT}", f"numbers    {folder / METRICS_JSON}"]
    if part is None:
        number = f"{len({one.class_name for one in evaluated})} of {len(classes)} classes"
        table, page = _write_together(root, evaluated, classes)
        lines += [f"table      {root / table} ({number})", f"report     {root / page} ({number})"]
    cli.close(True, *lines)


def _write_together(root: Path, evaluated: "Sequence[ClassResult]", classes: Sequence[str]) -> tuple[str, str]:
    """Write the results of several classes, or seeds of each; return the names of the table and of the page."""
    from realnet.evaluation.results import METRICS_CSV, REPORT, write_dataset
    from realnet.evaluation.seeds import SEEDS_CSV, SEEDS_REPORT, write_seeds
    from realnet.reporting.class_report import write_cards
    from realnet.reporting.pages import write_dataset_page

    def detector(one: "ClassResult") -> tuple[str, int | None]:
        return one.subject.detector, one.seed

    several = [one for one in evaluated if one.seed is not None or one.is_unified]  # others have their card
    cards = {}
    for key in dict.fromkeys(map(detector, several)):
        beside = [one for one in several if one.subject.detector == key[0]]
        cards[key] = write_cards([one for one in beside if one.seed == key[1]], beside)
    write_dataset_page(root, evaluated, classes, [cards.get(detector(one)) for one in evaluated])
    if evaluated[0].seed is None:
        write_dataset(root, evaluated)
        return METRICS_CSV, REPORT
    write_seeds(root, evaluated)
    return SEEDS_CSV, SEEDS_REPORT

"""What the model card of a detector says of its results."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from realnet.config import paths
from realnet.data.folders import path_key
from realnet.data.registry import UNIFIED
from realnet.detection.card import Results
from realnet.detection.checkpoints import Protocol
from realnet.evaluation.results import CheckpointResult, ClassResult, common_settings, read_class
from realnet.evaluation.scores import Metric, mean_over_classes
from realnet.evaluation.seeds import sum_up


def results_for_card(by_class: Mapping[str, CheckpointResult], made: str, spread: str = "") -> Results:
    """Return a checkpoint's results as its model card shows them.

    Args:
        by_class: the results, by class; of a class's own detector, of this class.
        made: date of the evaluation.
        spread: of detectors with other seeds, as text.
    """
    results = list(by_class.values())
    verdicts = [one.verdicts if one.calibration else None for one in results]
    judged = [one for one in verdicts if one is not None]
    is_judged, images = len(judged) == len(results), [image for one in results for image in one.images]
    num_defect = sum(image.is_defect for image in images)
    mean = results[0].metrics if len(results) == 1 else mean_over_classes([one.metrics for one in results])
    return Results(
        made=made,
        num_defect=num_defect,
        num_normal=len(images) - num_defect,
        metrics=_values(mean),
        missed=sum(one.missed for one in judged) if is_judged else None,
        false_alarms=sum(one.false_alarms for one in judged) if is_judged else None,
        spread=spread,
        by_class={name: _values(one.metrics) for name, one in by_class.items()} if len(results) > 1 else {},
    )


def _values(metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items() if metric.value is not None}


def spread_text(protocol: Protocol, results: Sequence[ClassResult]) -> str:
    """Return mean and spread of a detector over its seeds as a model card shows them; "" for less than two seeds."""
    summary = sum_up(results)
    found = summary.mean.get(protocol)
    if found is None or len(found.seeds) < 2:
        return ""
    if found.unlike:
        return f"none: {found.unlike}"
    listed = ", ".join(f"{name} {one}" for name, one in found.over_seeds.items() if one.value is not None)
    choices = {name: one[protocol].choices for name, one in summary.classes.items() if protocol in one}
    differing = "".join(f"; {name}: each chose {text}" for name, text in choices.items() if text)
    return f"{listed} (mean ± standard deviation of seeds {', '.join(map(str, found.seeds))}{differing})"


def find_results(path: Path, dataset: str | None, class_name: str | None, *, score_pool: int) -> Results | None:
    """Return the last evaluation's results of a detector's file as it is now, scored so; None if there are none."""
    if not (dataset and class_name):
        return None
    root = paths.output(dataset, "realnet", "vis")
    own, joint = root / class_name, root / UNIFIED / class_name
    below = [own.glob("*"), own.glob("*/seed_*")] if class_name == UNIFIED else [[joint], joint.glob("seed_*")]
    folders = [own, *sorted(chain(own.glob("seed_*"), *below), key=lambda folder: path_key(folder.as_posix()))]
    found = [one for one in map(read_class, folders) if one and one.settings["score_pool"] == score_pool]
    mine = [(result, one) for result in found for one in result.checkpoints if _is_file(one, path)]
    if not mine:
        return None
    result, checkpoint = mine[0]
    seeds = [other for other in found if other.seed is not None and other.is_unified == result.is_unified]
    alike = [other for other in seeds if common_settings(other) == common_settings(result)]
    spread = "" if result.seed is None else spread_text(checkpoint.protocol, alike)
    return results_for_card({one.class_name: found for one, found in mine}, result.made, spread)


def _is_file(result: CheckpointResult, path: Path) -> bool:
    return bool(result.checkpoint) and Path(result.checkpoint).resolve() == path.resolve()

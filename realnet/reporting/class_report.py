"""Evaluate the checkpoints of a class, and write its heatmaps, its report and its numbers."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import cast

from realnet.config import RealNetConfig
from realnet.data.index import Entry
from realnet.data.registry import OpenDataset
from realnet.detection.card import Card, make_card
from realnet.detection.checkpoints import PROTOCOLS, REFERENCES, Protocol, ReferenceName, Subject
from realnet.detection.loading import read_stored, stored_config
from realnet.drawing.panels import heatmap_name
from realnet.evaluation.cards import results_for_card, spread_text
from realnet.evaluation.references import ReferenceMaker
from realnet.evaluation.results import (
    GIVEN_POOL,
    REPORT,
    CheckpointResult,
    ClassResult,
    read_class,
    read_earlier,
    write_class,
)
from realnet.evaluation.run import TestSplits, evaluate_checkpoint, evaluate_reference, note_on_unknown_class, notes_on
from realnet.inspection.check import require_sound
from realnet.models.build import settle
from realnet.models.checkpoint import versions
from realnet.reporting.pages import write_class_page, write_heatmaps
from realnet.runtime import contents, distributed
from realnet.runtime.distributed import World
from realnet.runtime.lock import one_run

logger = logging.getLogger("realnet")


def heatmaps_folder(folder: Path, protocol: Protocol) -> Path:
    """Return the folder of a detector's heatmaps, in or under the folder of the class's results."""
    return folder if protocol == "given" else folder / protocol


def report_class(
    dataset: OpenDataset,
    subject: Subject,
    checkpoints: Mapping[Protocol, Path],
    *,
    config: RealNetConfig,
    world: World,
    folder: Path,
    references: Sequence[ReferenceName] = (),
    resume: bool = False,
) -> ClassResult:
    """Evaluate each checkpoint of a class; write heatmaps, ``report.html`` and ``metrics.json`` under ``folder``.

    Args:
        dataset: the dataset of the class.
        subject: the class, and whose checkpoints these are.
        checkpoints: may be empty if there are references; the report shows the images of the first in the order of
            ``PROTOCOLS``.
        config: settings of this machine and of the metrics; the checkpoints hold those of the networks.
        world: this process; only the main process writes.
        folder: folder of the class's results.
        references: reference detectors to fit to the training images and evaluate too, on the first checkpoint's
            features.
        resume: keep existing results if weights, settings, test images, masks and program have not changed.

    Raises:
        UserError: if a checkpoint, an image or a mask cannot be used, or if another run holds the folder.
    """
    class_name = subject.class_name
    with distributed.refusing_together():
        require_sound(dataset, [class_name])
        test = dataset.index(class_name, write=False).test
        first = next((checkpoints[protocol] for protocol in PROTOCOLS if protocol in checkpoints), None)
        seen = stored_config(first, config) if first else settle(config)
        inputs = _inputs(dataset, class_name, checkpoints, config, references, folder)
    kept = _kept(folder, inputs, test) if resume else None
    if not distributed.any_process(kept is None) and kept:
        logger.info("%s: results of %s kept, nothing has changed; --no-resume evaluates again", subject, kept.made)
        return kept
    with one_run(folder, world):
        return _evaluate(
            dataset,
            subject,
            checkpoints,
            config=config,
            seen=seen,
            world=world,
            folder=folder,
            references=references,
            inputs=inputs,
        )


def _evaluate(
    dataset: OpenDataset,
    subject: Subject,
    checkpoints: Mapping[Protocol, Path],
    *,
    config: RealNetConfig,
    seen: RealNetConfig,
    world: World,
    folder: Path,
    references: Sequence[ReferenceName],
    inputs: str,
) -> ClassResult:
    """Do the work of :func:`report_class`; ``seen`` is the config of the network, and ``inputs`` its digest."""
    class_name = subject.class_name
    test = dataset.index(class_name, write=False).test
    first = next((checkpoints[protocol] for protocol in PROTOCOLS if protocol in checkpoints), None)
    if world.is_main:
        _remove_stale_heatmaps(folder, class_name, test)
    splits = TestSplits(dataset, class_name, config, world)
    results: list[CheckpointResult] = []
    with distributed.refusing_together():
        maker = ReferenceMaker(dataset, class_name, seen, world, checkpoint_path=first) if references else None
    for protocol in reversed([protocol for protocol in PROTOCOLS if protocol in (*checkpoints, *references)]):
        # only one detector's maps are in memory at a time; the last ones go into the report
        if maker and protocol in REFERENCES:
            result, scores = evaluate_reference(cast(ReferenceName, protocol), maker, splits, world=world)
        else:
            result, scores = evaluate_checkpoint(
                protocol, checkpoints[protocol], splits, config=config, world=world, folder=folder
            )
        pictures = splits.at(scores.image_size).pictures()
        results.insert(0, result)
        with distributed.refusing_together():
            if world.is_main and (protocol in checkpoints or not checkpoints):
                description, target = f"{class_name}: heatmaps ({protocol})", heatmaps_folder(folder, protocol)
                write_heatmaps(scores, pictures, target, result.display, description)
    unknown: Iterable[str] = ()
    if subject.is_unified and first and results[0].calibration:
        unknown = note_on_unknown_class(first, splits, scores, config=config, world=world)
    whole = ClassResult(
        dataset=dataset.name,
        class_name=class_name,
        made=datetime.now().astimezone().isoformat(" ", "minutes"),
        notes=(*notes_on(scores), *unknown),
        checkpoints=tuple(results),
        settings=_settings(seen, config),
        inputs=inputs,
        seed=subject.seed,
        is_unified=subject.is_unified,
    )
    with distributed.refusing_together():
        if world.is_main:
            write_class_page(folder, whole, scores, pictures, None if subject.is_unified else write_cards([whole]))
            write_class(folder, whole)
            contents.keep(folder)
    return whole


def write_cards(results: Sequence[ClassResult], beside: Sequence[ClassResult] = ()) -> Card | None:
    """Write the model cards of a detector's own checkpoints, with its results; return that of the first checkpoint.

    Args:
        results: of each class that it judges.
        beside: of its detectors of all seeds, whose spread the cards show.
    """
    cards: list[Card | None] = []
    for one in results[0].checkpoints:
        if one.protocol not in REFERENCES:
            path, by_class = Path(one.checkpoint), {result.class_name: result.of(one.protocol) for result in results}
            found = {name: mine for name, mine in by_class.items() if mine is not None}
            shown = results_for_card(found, results[0].made, spread_text(one.protocol, beside))
            card = make_card(read_stored(path, mapped=True), path, shown)
            cards.append(card)
            if card and one.protocol != "given":
                card.write(path)
    return cards[0] if cards else None


def _settings(seen: RealNetConfig, config: RealNetConfig) -> dict[str, float | str | None]:
    """Return what scores and metrics depend on; keys that earlier versions lack are left out at their defaults."""
    own = config.evaluation.model_dump(include={"resolution", "mask_resize"}, exclude_defaults=True)
    common = seen.evaluation.model_dump(exclude={"batch_size", "resolution", "mask_resize"})
    given = {GIVEN_POOL: "yes"} if isinstance(config.evaluation.score_pool, int) else {}
    return {**common, "score_pool": seen.evaluation.pool, **own, **given}


def _inputs(
    dataset: OpenDataset,
    class_name: str,
    checkpoints: Mapping[Protocol, Path],
    config: RealNetConfig,
    references: Sequence[ReferenceName],
    folder: Path,
) -> str:
    """Return a digest of everything that a class's results depend on; files count by path and content."""
    index = dataset.index(class_name, write=False)
    test, train = index.test, index.train if references else ()
    names = [name for entry in (*test, *train) for name in (entry.filename, entry.maskname) if name]
    weights = [path for path in (Path(config.backbone.weights),) if path.is_file()]
    files = [*checkpoints.values(), *weights, *(dataset.image_root / name for name in names)]
    facts = [[str(path) for path in files], contents.checksums(files, folder), contents.code(), versions()]
    reading = [dataset.config.masks.model_dump(), dataset.config.image_bits]
    whole = [reading, config.model_dump(mode="json"), [asdict(entry) for entry in test], facts, *sorted(references)]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _kept(folder: Path, inputs: str, test: Sequence[Entry]) -> ClassResult | None:
    """Return the stored results if they have the same inputs, and if the report and all heatmaps exist."""
    stored = read_class(folder)
    if stored is None or stored.inputs != inputs:
        return None
    heatmaps = [heatmap_name(entry.filename, entry.class_name) for entry in test]
    folders = [heatmaps_folder(folder, protocol) for protocol in stored.pictured()]
    written = [folder / REPORT, *(target / name for target in folders for name in heatmaps)]
    return stored if all(path.is_file() for path in written) else None


def _remove_stale_heatmaps(folder: Path, class_name: str, test: Sequence[Entry]) -> None:
    """Remove the heatmaps that the previous evaluation wrote for images that are no longer test images."""
    earlier, tested = read_earlier(folder), {entry.filename for entry in test}
    for one in earlier.checkpoints if earlier else ():
        stale = [heatmap_name(image.filename, class_name) for image in one.images if image.filename not in tested]
        for name in stale:
            (heatmaps_folder(folder, one.protocol) / name).unlink(missing_ok=True)

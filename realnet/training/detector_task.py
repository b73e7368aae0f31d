"""Train a detector, of a class or of all: AFS once, then reconstruction and RRS (docs/method.md, Detector training)."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from realnet.anomalies.items import DetectorTrainDataset
from realnet.config import PUBLISHED_BLOCKS, RealNetConfig, paths
from realnet.data.order import EpochOrder
from realnet.data.registry import keep_index
from realnet.detection.card import make_card
from realnet.detection.one_class import STATISTICS, measured_by
from realnet.detection.tiling import TileJudge, rule_facts
from realnet.errors import Stopped
from realnet.evaluation.scores import curves_of, mean_over_classes, published_score, score_split, summarise
from realnet.models import checkpoint
from realnet.models.afs import afs_criteria
from realnet.models.build import build_detector, settle
from realnet.models.checkpoint import Checkpoint
from realnet.runtime import distributed
from realnet.runtime.batch_norm import average_running_statistics, join_batch_norms
from realnet.runtime.devices import send, send_images
from realnet.runtime.distributed import World
from realnet.runtime.placement import compile_networks, move_to_device
from realnet.runtime.precision import in_float32
from realnet.runtime.progress import bar
from realnet.runtime.signals import leave_signals_to_main
from realnet.runtime.threads import data_workers
from realnet.training import state
from realnet.training.clean_features import CleanFeatures
from realnet.training.completion import completed, lacks_calibration
from realnet.training.detector_data import DetectorData, asked
from realnet.training.logs import Run
from realnet.training.loop import fit
from realnet.training.normal_statistics import Choice
from realnet.training.pairs import detect_pairs, detector_losses
from realnet.training.statistics_by_class import StatisticsByClass, statistics_by_class

logger = logging.getLogger("realnet")

SLOW = "the published detector takes days on a CPU; --preset cpu trains a small one in minutes"


def train_detector(config: RealNetConfig, data: DetectorData, world: World, *, resume: bool = True) -> Path:
    """Train a class's detector, or continue its training; return the path of ``ckpt_last.pth``.

    Raises:
        UserError: for settings that do not fit the data, the weights, or the earlier part of this run.
    """
    last, config = data.folder("checkpoints") / paths.LAST, config.seeded(data.seed)
    config = settle(state.as_begun(config, last) if resume else config)
    if is_slow(config, world.device) and world.is_main:
        logger.warning("WARNING: %s", SLOW)
    task = DetectorTask(config, data, world, best=last.with_name(paths.BEST))
    fit(task, task.train_set, config, world, last=last, log_folder=data.folder("log"), resume=resume)
    return last


class DetectorTask:
    """The training task of a class's detector (docs/method.md, Detector training)."""

    loss_names: tuple[str, ...] = ("segmentation", "reconstruction")

    def __init__(self, config: RealNetConfig, data: DetectorData, world: World, *, best: Path) -> None:
        self.config, self.data, self.world, self.best = config, data, world, best
        self.title = f"{data.dataset}/{data.name} detector"
        self.validation_interval_epochs = config.train.evaluation_interval_epochs
        self.best_score = -1.0
        self.choices: list[Choice] | None = None
        self.statistics: StatisticsByClass | None = None
        self.known: CleanFeatures | None = None
        self.train_set = DetectorTrainDataset(
            data.train,
            data.image_root,
            image_size=config.image_size,
            synthesizer=data.synthesizer,
            seed=config.seed,
            augment=config.train.augment,
            image_bits=data.image_bits,
            draws=config.draws,
        )
        self.test_split = data.test_split(config, world)
        torch.manual_seed(config.seed)
        model = build_detector(config, by_class=data.measures(config))
        self.model = move_to_device(model, world.device, config.runtime).train()
        if config.train.batch_norm == "joint":
            join_batch_norms(self.model.rrs)
        compile_networks(config.runtime, self.model)

    def subject(self) -> Mapping[str, Any]:
        """Describe the network and its training data; see :meth:`Task.subject`."""
        return self._subject

    @cached_property
    def _subject(self) -> dict[str, object]:
        return self.data.subject(self.config, self.model.backbone.identity())

    def parameters(self) -> list[Tensor]:
        """Return the weights of reconstruction and RRS."""
        return [*self.model.recon.parameters(), *self.model.rrs.parameters()]

    @torch.no_grad()
    def begin(self) -> None:
        """Choose the features by AFS over ``afs.init_batches`` batches of anomalous items (docs/method.md, AFS)."""
        if self.world.is_main:
            keep_index(self.data.dataset, [part.class_name for part in self.data.by_class()])
        selections, device = self.model.afs.selections().items(), self.world.device
        criteria = {key: torch.zeros(s.level.channels, device=device) for key, s in selections}
        for batch in self._anomalous_batches():
            pair = torch.cat([send_images(batch[name], device) for name in ("image", "clean")])
            levels = in_float32(self.model.backbone, pair)
            anomalous, clean = ({name: f.chunk(2)[i] for name, f in levels.items()} for i in (0, 1))
            mask, maximum = send(batch["mask"], device), distributed.maximum
            for key, value in afs_criteria(self.model.afs, anomalous, clean, mask, joint_maximum=maximum).items():
                criteria[key] += value
        self.model.afs.choose({key: distributed.mean(value) for key, value in criteria.items()})
        self._fit_statistics()
        if self.world.is_main:
            self.best.unlink(missing_ok=True)  # of an earlier run

    def _fit_statistics(self) -> None:
        """Fit the normal statistics, if the config asks for them; a continued run keeps its earlier choices."""
        if self.config.features.normalise == "none":
            return
        images, augment = self.train_set.images, self.config.train.augment
        self.statistics = statistics_by_class(self.model, images, self.data, self.config, self.world)
        is_worth_it = self.world.device.type == "cpu" and self.world.size == 1  # on a GPU the backbone hardly counts
        with torch.autocast(self.world.device.type, enabled=False):  # in a run that goes on, a step has begun
            self.choices = self.statistics.fit(self.choices)
            if is_worth_it and not augment and not self.config.tiles:  # which are drawn anew each time
                self.known = CleanFeatures(len(images), self.statistics.of_images)

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the weighted (segmentation, reconstruction) losses, (2,)."""
        if self.statistics is None:
            self._fit_statistics()  # in a run that goes on
        normalise = self.statistics.normalise if self.statistics else None
        detection, clean = detect_pairs(self.model, batch, self.world.device, normalise, self.known)
        return detector_losses(detection, clean, send(batch["mask"], self.world.device), self.config.loss)

    def after_step(self) -> None:
        """Join the running statistics of batch norms that use each process's own batch."""
        if self.config.train.batch_norm == "own":
            average_running_statistics(self.model.rrs)

    def validate(self, step: int, run: Run) -> bool:
        """Score the test split and, as published, keep the best weights on it as ``ckpt_best``."""
        if not self.config.train.evaluation or not len(self.test_split):
            return True
        scores = score_split(
            self.model,
            self.test_split,
            config=self.config.evaluation,
            precision=self.world.precision,
            by_tiles=TileJudge.of(self.config, self.data.synthesizer.foreground),
            description=f"{self.data.class_name}: test split",
        )
        limit = self.config.evaluation.aupro_fpr_limit
        by_class = [summarise(curves_of(one), fpr_limit=limit) for one in scores.by_class()]
        metrics = mean_over_classes(by_class) if len(by_class) > 1 else by_class[0]
        run.scalars(step, {f"test/{name}": m.value for name, m in metrics.items() if m.value is not None})
        by_what = " (by the logit alone: maps are joined after training)" if self.model.fusion else ""
        listed = "  ".join(f"{name} {metric}" for name, metric in metrics.items())
        logger.info("step %d, test split%s: %s", step, by_what, listed)
        score = published_score(metrics)
        if score is not None and score >= self.best_score:  # of equals the last, as published
            self.best_score = score
            if self.world.is_main:
                values = {name: m.value for name, m in metrics.items()}
                self._write(self.best, step, {} if self.model.fusion else {"metrics": values})
        return True

    def is_done(self) -> bool:
        """Tell that training goes on to the last step."""
        return False

    def state(self) -> Mapping[str, Any]:
        """Return the learned weights, the choices of normal statistics, and the best score."""
        choices = [list(choice) for choice in self.choices] if self.choices else None
        return {"model": self.model.trainable_state(), "best_score": self.best_score, "features": choices}

    def restore(self, stored: Mapping[str, Any], source: str) -> None:
        """Restore what :meth:`state` returned."""
        if found := stored.get("features"):
            earlier = isinstance(found[0], str)  # of a version whose detectors had one choice
            self.choices = [Choice(*choice) for choice in ([found] if earlier else found)]
            self.model.measure_by([choice.normalise for choice in self.choices], self.config.input_size)
        self._load(stored["model"], source)
        self.best_score = stored["best_score"]

    def _load(self, learned: Mapping[str, Tensor], source: str) -> None:
        backbone = {f"backbone.{key}": value for key, value in self.model.backbone.state_dict().items()}
        checkpoint.load_into(self.model, {**backbone, **learned}, source)

    def save(self, path: Path, step: int, epoch: int) -> None:
        """Write the detector without its backbone."""
        self._write(path, step, {"epoch": epoch})

    def _write(self, path: Path, step: int, facts: Mapping[str, Any]) -> None:
        weights = Checkpoint(
            kind="realnet",
            state_dict=self.model.trainable_state(),
            dataset=self.data.dataset,
            classes=self.data.classes or (self.data.class_name,),
            class_name=self.data.class_name,
            config=self._resolved().model_dump(mode="json"),
            facts={
                "step": step,
                **facts,
                "backbone": self.model.backbone.facts(),
                **self.data.facts(),
                "identity": {name: str(value) for name, value in {**self._subject, **asked(self.config)}.items()},
                **rule_facts(self.config, self.data.synthesizer.foreground),
                **({STATISTICS: self._choices_by_class()} if self.model.rule else {}),
            },
        )
        checkpoint.save(path, weights)

    def _resolved(self) -> RealNetConfig:
        """Return the config of the trained detector, of one class with the features' choice for ``auto``."""
        if self.choices is None or self.model.rule:
            return self.config
        return measured_by(self.config, self.choices[0]._asdict())

    def _choices_by_class(self) -> dict[str, dict[str, Any]]:
        return {name: one._asdict() for name, one in zip(self.data.classes, self.choices or (), strict=True)}

    def finish(self, path: Path) -> None:
        """Add fusion, score pool and calibration to the checkpoints that lack them, on the main process.

        If a run stops before this is done, a checkpoint gives scores but no verdicts; the same command then continues.
        """
        lacking = [file for file in (path, self.best) if self.world.is_main and lacks_calibration(file)]
        if distributed.any_process(bool(lacking)) and self.statistics is None:
            self._fit_statistics()  # in a run that goes on
        done: dict[int, Checkpoint] = {}
        with suppress(Stopped):
            for file in lacking:
                stored = checkpoint.load(file, kind="realnet")
                step = stored.facts["step"]
                if step not in done:
                    self._load(stored.state_dict, str(file))
                    logger.info("%s: calibrating %s", self.title, file.name)
                    unseen = self.statistics.without_held_out() if self.statistics else self.model.normal
                    done[step] = completed(stored, self.model, unseen, self.data, self._resolved(), self.world)
                whole = replace(done[step], facts={**done[step].facts, **stored.facts})
                if card := make_card(whole, file):
                    card.write(file)  # before the file, which then lacks nothing
                checkpoint.save(file, whole)
        distributed.meet()

    def _anomalous_batches(self) -> Any:
        self.train_set.only_anomalous = True
        order = EpochOrder(
            len(self.train_set),
            seed=self.config.seed + 1,
            batch_size=self.config.train.batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            num_steps=self.config.afs.init_batches,
            draws=self.config.draws,
            groups=self.train_set.groups,
        )
        loader = DataLoader(
            self.train_set,
            batch_size=order.batch_size,
            sampler=order,
            num_workers=data_workers(self.config.runtime.num_workers),
            worker_init_fn=leave_signals_to_main,
        )
        description = f"{self.data.class_name}: AFS"
        for batch in bar(
            loader, total=self.config.afs.init_batches, description=description, is_main=self.world.is_main
        ):
            if distributed.any_process(self.world.stop.asked):
                raise Stopped("stopped before the first step; run the same command again to continue")
            yield batch
        self.train_set.only_anomalous = False


def is_slow(config: RealNetConfig, device: torch.device) -> bool:
    """Tell whether the published detector is to be trained on a CPU, which takes days."""
    return device.type == "cpu" and config.preset == "published" and config.blocks == PUBLISHED_BLOCKS

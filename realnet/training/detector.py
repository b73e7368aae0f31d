"""Training of a class's detector: AFS once, then reconstruction and RRS (method, section 3)."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from realnet import checkpoint, distributed, paths, precision
from realnet.calibration import Calibration, calibrate, split_holdout
from realnet.checkpoint import Checkpoint
from realnet.config import RealNetConfig
from realnet.data.check import advise, require_sound
from realnet.data.datasets import DetectorTrainDataset, TestDataset
from realnet.data.index import Entry
from realnet.data.registry import OpenDataset, keep_index
from realnet.data.sampling import EpochSampler
from realnet.data.synthesis import AnomalySynthesizer, build_synthesizer
from realnet.distributed import Process
from realnet.errors import Stopped
from realnet.evaluation import Metric, curves_of, score_class, summarise
from realnet.losses import cross_entropy_loss, focal_loss, reconstruction_loss
from realnet.models.afs import afs_criteria
from realnet.networks import build_detector, compile_networks, place, settle
from realnet.progress import bar, follow
from realnet.stopping import leave_signals_to_main
from realnet.training import state
from realnet.training.loop import fit
from realnet.training.pairs import detect_pairs
from realnet.training.run import Run

logger = logging.getLogger("realnet")


@dataclass(frozen=True)
class DetectorData:
    """A class's images, and how anomalies are made on them; ``held_out`` are normal images that are not trained on."""

    dataset: str
    class_name: str
    image_root: Path
    train: Sequence[Entry]
    test: Sequence[Entry]
    synthesizer: AnomalySynthesizer
    held_out: Sequence[Entry] = ()

    def subject(self, config: RealNetConfig, backbone_identity: str) -> dict[str, object]:
        """Return what is trained on what, as a run's identity has it."""
        sources = (file.as_posix() for files in self.synthesizer.sources.values() for file in files)
        return {
            "stage": "detector",
            "dataset": self.dataset,
            "class": self.class_name,
            "training images": state.fingerprint(entry.filename for entry in self.train),
            "anomaly sources": state.fingerprint(sources),
            "backbone's weights (SHA-256)": backbone_identity,
            "train.accumulation (batch norms see each micro-batch by itself)": config.train.accumulation,
        }


def detector_data(dataset: OpenDataset, class_name: str, config: RealNetConfig) -> DetectorData:
    """Find and check a class's images, and the sources of its anomalies.

    Raises:
        UserError: where images or sources are absent, or not fit for use.
    """
    index = dataset.index(class_name, write=False)
    synthesizer = build_synthesizer(
        config.anomalies,
        dataset.name,
        class_name,
        image_size=config.image_size,
        foreground=dataset.config.foreground_of(class_name),
    )
    sources = [file for files in synthesizer.sources.values() for file in files]
    require_sound(dataset, [class_name], sources=sources)
    advise(index.train)
    train, held_out = split_holdout(index.train, config.calibration.holdout_fraction)
    return DetectorData(dataset.name, class_name, dataset.image_root, train, index.test, synthesizer, held_out)


def train_detector(config: RealNetConfig, data: DetectorData, process: Process, *, resume: bool = True) -> Path:
    """Train a class's detector, or go on with it; return the path of ``ckpt_last.pth``.

    Raises:
        UserError: for settings that do not fit the data, the weights, or an earlier part of this run.
    """
    config = settle(config)
    last = paths.output(data.dataset, "realnet", "checkpoints", data.class_name) / paths.LAST
    task = DetectorTask(config, data, process, best=last.with_name(paths.BEST))
    log_folder = paths.output(data.dataset, "realnet", "log", data.class_name)
    fit(task, task.train_set, config, process, last=last, log_folder=log_folder, resume=resume)
    return last


class DetectorTask:
    """The detector of a class, as the training loop sees it."""

    loss_names: tuple[str, ...] = ("segmentation", "reconstruction")

    def __init__(self, config: RealNetConfig, data: DetectorData, process: Process, *, best: Path) -> None:
        self.config, self.data, self.process, self.best = config, data, process, best
        self.title = f"{data.dataset}/{data.class_name} detector"
        self.validation_interval_epochs = config.train.evaluation_interval_epochs
        self.best_score = -1.0
        self.precision = precision.resolve(config.runtime.precision, process.device)
        self.train_set = DetectorTrainDataset(
            data.train,
            data.image_root,
            image_size=config.image_size,
            synthesizer=data.synthesizer,
            seed=config.seed,
            augment=config.train.augment,
        )
        self.test_set = TestDataset(data.test, data.image_root, image_size=config.image_size)
        torch.manual_seed(config.seed)
        self.model = place(build_detector(config), process.device, config.runtime).train()
        distributed.join_batch_norms(self.model.rrs)
        compile_networks(config.runtime, self.model)

    def subject(self) -> Mapping[str, Any]:
        """Return what is trained on what."""
        return self.data.subject(self.config, self.model.backbone.identity())

    def parameters(self) -> list[Tensor]:
        """Return the reconstruction's and RRS's weights."""
        return [*self.model.recon.parameters(), *self.model.rrs.parameters()]

    @torch.no_grad()
    def begin(self) -> None:
        """Choose the features: AFS over ``init_batches`` batches of anomalous items, all blocks in one pass."""
        if self.process.is_main:
            keep_index(self.data.dataset, [self.data.class_name])
        criteria = {key: torch.zeros(s.level.channels) for key, s in self.model.afs.selections().items()}
        criteria = {key: value.to(self.process.device) for key, value in criteria.items()}
        for batch in self._anomalous_batches():
            pair = torch.cat([batch["image"], batch["clean"]]).to(self.process.device, non_blocking=True)
            with self.precision.autocast():
                levels = self.model.backbone(pair)
            anomalous, clean = ({name: f.chunk(2)[i] for name, f in levels.items()} for i in (0, 1))
            mask = batch["mask"].to(self.process.device, non_blocking=True)
            batch_criteria = afs_criteria(self.model.afs, anomalous, clean, mask, joint_maximum=distributed.maximum)
            for key, value in batch_criteria.items():
                criteria[key] += value
        self.model.afs.choose({key: distributed.mean(value) for key, value in criteria.items()})
        if self.process.is_main:
            self.best.unlink(missing_ok=True)  # of an earlier run

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the weighted (segmentation, reconstruction) losses."""
        detection, clean = detect_pairs(self.model, batch, self.process.device)
        mask, weights = batch["mask"].to(self.process.device, non_blocking=True), self.config.loss
        if weights.segmentation == "focal":
            segmentation = focal_loss(detection.logits, mask, gamma=weights.focal_gamma)
        else:
            segmentation = cross_entropy_loss(detection.logits, mask)
        reconstruction = reconstruction_loss(detection.reconstructed, clean)
        return torch.stack([weights.segmentation_weight * segmentation, weights.reconstruction_weight * reconstruction])

    def after_step(self) -> None:
        """Nothing follows a step."""

    def validate(self, step: int, run: Run) -> bool:
        """Score the test split, and keep ``ckpt_best`` by the published protocol."""
        if not self.config.train.evaluation or not len(self.test_set):
            return True
        scores = score_class(
            self.model,
            self.test_set,
            config=self.config.evaluation,
            runtime=self.config.runtime,
            precision=self.precision,
            process=self.process,
            description=f"{self.data.class_name}: test split",
        )
        metrics = summarise(curves_of(scores), fpr_limit=self.config.evaluation.aupro_fpr_limit)
        run.scalars(step, {f"test/{name}": m.value for name, m in metrics.items() if m.value is not None})
        logger.info("step %d, test split: %s", step, "  ".join(f"{name} {metric}" for name, metric in metrics.items()))
        score = published_score(metrics)
        if score is not None and score > self.best_score:
            self.best_score = score
            if self.process.is_main:
                self._write(self.best, step, {"metrics": {name: m.value for name, m in metrics.items()}})
        return True

    def state(self) -> Mapping[str, Any]:
        """Return the learned weights, AFS's choice, and the best score."""
        return {"model": self.model.trainable_state(), "best_score": self.best_score}

    def restore(self, stored: Mapping[str, Any], source: str) -> None:
        """Take back :meth:`state`."""
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
            classes=(self.data.class_name,),
            class_name=self.data.class_name,
            config=self.config.model_dump(mode="json"),
            facts={"step": step, **facts, "backbone": self.model.backbone.facts()},
        )
        checkpoint.save(path, weights)

    def finish(self, path: Path) -> None:
        """Complete checkpoints with the thresholds of their weights, where they have none yet; on the main process.

        Until then, such as in a run that was stopped, a file gives scores but no verdicts; the same command goes on.
        """
        if self.process.is_main:
            with suppress(Stopped):
                self._calibrate_files(path, self.best)

    def _calibrate_files(self, *files: Path) -> None:
        done: dict[int, dict[str, Any] | None] = {}
        for path in filter(Path.is_file, files):
            stored = checkpoint.load(path, kind="realnet")
            step = stored.facts["step"]
            if "calibration" in stored.facts:
                continue
            if step not in done:
                self._load(stored.state_dict, str(path))
                calibration = self._calibrate(path)
                done[step] = asdict(calibration) if calibration else None
            checkpoint.save(path, replace(stored, facts={**stored.facts, "calibration": done[step]}))

    def _calibrate(self, path: Path) -> Calibration | None:
        logger.info("%s: calibrating %s", self.title, path.name)
        return calibrate(
            self.model,
            self.data.held_out or self.data.train,
            self.data.image_root,
            synthesizer=self.data.synthesizer,
            config=self.config,
            precision=self.precision,
            held_out=bool(self.data.held_out),
            follow=follow(f"{self.data.class_name}: calibration", self.process),
        )

    def _anomalous_batches(self) -> Any:
        self.train_set.only_anomalous = True
        sampler = EpochSampler(
            len(self.train_set),
            seed=self.config.seed + 1,
            batch_size=self.config.train.batch_size,
            rank=self.process.rank,
            world_size=self.process.world_size,
            num_steps=self.config.afs.init_batches,
        )
        loader = DataLoader(
            self.train_set,
            batch_size=sampler.batch_size,
            sampler=sampler,
            num_workers=self.config.runtime.num_workers,
            worker_init_fn=leave_signals_to_main,
        )
        description = f"{self.data.class_name}: AFS"
        for batch in bar(
            loader, total=self.config.afs.init_batches, description=description, is_main=self.process.is_main
        ):
            if distributed.any_process(self.process.stop.asked):
                raise Stopped("stopped before the first step; the same command goes on")
            yield batch
        self.train_set.only_anomalous = False


def published_score(metrics: Mapping[str, Metric]) -> float | None:
    """Return the mean of image and pixel AUROC, of those there are: what ``ckpt_best`` is chosen by."""
    values = [metrics[name].value for name in ("image_auroc", "pixel_auroc")]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None

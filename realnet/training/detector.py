"""Training of a class's detector: AFS once, then reconstruction and RRS (method, section 3)."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from realnet import checkpoint, distributed, paths, precision
from realnet.checkpoint import Checkpoint
from realnet.config import RealNetConfig
from realnet.data.datasets import DetectorTrainDataset, TestDataset
from realnet.data.index import Entry
from realnet.data.sampling import EpochSampler
from realnet.data.synthesis import AnomalySynthesizer
from realnet.distributed import Process
from realnet.evaluation import Metric, score_class, summarise
from realnet.losses import cross_entropy_loss, focal_loss, reconstruction_loss
from realnet.models.afs import afs_criteria
from realnet.models.realnet import Detection, RealNet
from realnet.networks import build_detector
from realnet.precision import Precision
from realnet.training import state
from realnet.training.batches import batches, make_sampler, total_steps
from realnet.training.optimisation import Optimisation, learning_rate
from realnet.training.run import Run, bar, seed_step, throughput

logger = logging.getLogger("realnet")


@dataclass(frozen=True)
class DetectorData:
    """A class's images, and how anomalies are made on them."""

    dataset: str
    class_name: str
    image_root: Path
    train: Sequence[Entry]
    test: Sequence[Entry]
    synthesizer: AnomalySynthesizer


def train_detector(config: RealNetConfig, data: DetectorData, process: Process, *, resume: bool = True) -> Path:
    """Train a class's detector, or go on with it; return the path of ``ckpt_last.pth``.

    Raises:
        UserError: for settings that do not fit the data, the weights, or an earlier part of this run.
    """
    # data
    folder = paths.output(data.dataset, "realnet", "checkpoints", data.class_name)
    last, best = folder / paths.LAST, folder / paths.BEST
    train_set = DetectorTrainDataset(
        data.train,
        data.image_root,
        image_size=config.image_size,
        synthesizer=data.synthesizer,
        seed=config.seed,
        augment=config.train.augment,
    )
    test_set = TestDataset(data.test, data.image_root, image_size=config.image_size)
    sampler = make_sampler(train_set, config.train, process, seed=config.seed)
    num_steps = total_steps(config.train, sampler)

    # model
    torch.manual_seed(config.seed)
    number_format = precision.resolve(config.runtime.precision, process.device)
    model = build_detector(config).to(process.device)
    if process.device.type == "cuda" and config.runtime.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimisation = Optimisation(
        [*model.recon.parameters(), *model.rrs.parameters()],
        config.optimiser,
        num_steps=num_steps,
        precision=number_format,
    )

    # resume
    state_path = state.path_of(last)
    stored = state.load(state_path, config) if resume else None
    start_step, best_score = 0, -1.0
    if stored is not None:
        _restore(model, optimisation, stored, state_path)
        start_step, best_score = stored["step"], stored["best_score"]
    sampler.start_step = start_step

    def facts(step: int, metrics: dict[str, Metric] | None) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": sampler.epoch_of(step),
            "backbone": {"name": config.backbone.name, "checksum": model.backbone.checksum()},
            "metrics": {name: metric.value for name, metric in (metrics or {}).items()},
        }

    def save(path: Path, step: int, metrics: dict[str, Metric] | None = None) -> None:
        weights = Checkpoint(
            kind="realnet",
            state_dict=model.trainable_state(),
            dataset=data.dataset,
            classes=(data.class_name,),
            class_name=data.class_name,
            config=config.model_dump(mode="json"),
            facts=facts(step, metrics),
        )
        checkpoint.save(path, weights)

    def save_last(step: int) -> None:
        if process.is_main:
            parts = {
                "model": model.trainable_state(),
                "optimisation": optimisation.state_dict(),
                "best_score": best_score,
            }
            state.save(state_path, step, config, parts)
            save(last, step)

    with Run(paths.output(data.dataset, "realnet", "log", data.class_name), process, config, start_step) as run:
        logger.info(
            "%s / %s: %d training images, step %d of %d",
            data.dataset,
            data.class_name,
            len(train_set),
            start_step,
            num_steps,
        )
        if stored is None:
            choose_features(model, train_set, config, number_format, process)
        feed = batches(train_set, sampler, config.runtime, process)
        totals, since, images = torch.zeros(2, device=process.device), time.perf_counter(), 0
        model.train()
        step = start_step
        for step in run.steps(num_steps, f"{data.class_name}: detector"):
            # forward, backward
            seed_step(config.seed, process.rank, step)
            for _ in range(config.train.accumulation):
                batch = next(feed)
                with number_format.autocast():
                    detection, clean = detect_pairs(model, batch, process.device)
                mask = batch["mask"].to(process.device, non_blocking=True)
                losses = detector_losses(detection, clean, mask, config)
                optimisation.backward(losses.sum() / config.train.accumulation)
                totals += losses.detach() / config.train.accumulation
            optimisation.step(step)
            done, images = step + 1, images + sampler.global_batch

            # log
            if done % config.train.log_interval_steps == 0 or done == num_steps:
                segmentation, reconstruction = distributed.mean(totals / (images // sampler.global_batch)).tolist()
                values = {"loss/segmentation": segmentation, "loss/reconstruction": reconstruction}
                rate = learning_rate(config.optimiser, step, num_steps)
                run.scalars(done, values | {"learning_rate": rate} | throughput(process, since, images))
                totals, since, images = torch.zeros_like(totals), time.perf_counter(), 0

            # evaluate
            interval = config.train.evaluation_interval_epochs * sampler.steps_per_epoch
            if config.train.evaluation and len(test_set) and (done % interval == 0 or done == num_steps):
                scores = score_class(
                    model,
                    test_set,
                    config=config.evaluation,
                    runtime=config.runtime,
                    precision=number_format,
                    process=process,
                )
                metrics = summarise(scores, fpr_limit=config.evaluation.aupro_fpr_limit)
                run.scalars(done, {f"test/{k}": m.value for k, m in metrics.items() if m.value is not None})
                score = published_score(metrics)
                logger.info("step %d: %s", done, "  ".join(f"{name} {value}" for name, value in metrics.items()))
                if score is not None and score > best_score:
                    best_score = score
                    if process.is_main:
                        save(best, done, metrics)
                since, images = time.perf_counter(), 0
                totals = torch.zeros_like(totals)

            # save
            if done % config.train.checkpoint_interval_steps == 0:
                save_last(done)
        finished = start_step if num_steps <= start_step else step + 1
        save_last(finished)
        if run.stopped and finished < num_steps:
            logger.info("stopped after step %d of %d; the same command goes on from there", finished, num_steps)
    return last


def detect_pairs(model: RealNet, batch: dict[str, Any], device: torch.device) -> tuple[Detection, dict[str, Tensor]]:
    """Detect on a training batch; return that and the clean originals' features by block.

    The backbone runs once on what differs: an item without anomaly is its own original.
    """
    anomalous = batch["has_anomaly"].nonzero().flatten()  # on the CPU: no synchronisation
    images = torch.cat([batch["image"], batch["clean"][anomalous]]).to(device, non_blocking=True)
    if device.type == "cuda":
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        levels = model.backbone(images)
    size, number, place = images.shape[-2:], len(batch["image"]), anomalous.to(device, non_blocking=True)
    selected, clean = {}, {}
    for name, features in model.afs(levels, size).items():
        selected[name] = features[:number]
        clean[name] = features[:number].index_copy(0, place, features[number:])
    return model.detect(selected, size), clean


def detector_losses(detection: Detection, clean: dict[str, Tensor], mask: Tensor, config: RealNetConfig) -> Tensor:
    """Return the weighted (segmentation, reconstruction) losses, (2,)."""
    if config.loss.segmentation == "focal":
        segmentation = focal_loss(detection.logits, mask, gamma=config.loss.focal_gamma)
    else:
        segmentation = cross_entropy_loss(detection.logits, mask)
    reconstruction = reconstruction_loss(detection.reconstructed, clean)
    return torch.stack(
        [config.loss.segmentation_weight * segmentation, config.loss.reconstruction_weight * reconstruction]
    )


def published_score(metrics: dict[str, Metric]) -> float | None:
    """Return the mean of image and pixel AUROC, of those there are: what ``ckpt_best`` is chosen by."""
    values = [metrics[name].value for name in ("image_auroc", "pixel_auroc")]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


@torch.no_grad()
def choose_features(
    model: RealNet, train_set: DetectorTrainDataset, config: RealNetConfig, number_format: Precision, process: Process
) -> None:
    """Run AFS: one pass over ``init_batches`` batches of anomalous items, for all blocks at once."""
    train_set.only_anomalous = True
    sampler = EpochSampler(
        len(train_set),
        seed=config.seed + 1,
        batch_size=config.train.batch_size,
        rank=process.rank,
        world_size=process.world_size,
        num_steps=config.afs.init_batches,
    )
    loader = DataLoader(
        train_set, batch_size=sampler.batch_size, sampler=sampler, num_workers=config.runtime.num_workers
    )
    totals = {key: torch.zeros(s.level.channels, device=process.device) for key, s in model.afs.selections().items()}
    for batch in bar(
        loader, total=config.afs.init_batches, description="AFS: choosing features", is_main=process.is_main
    ):
        pair = torch.cat([batch["image"], batch["clean"]]).to(process.device, non_blocking=True)
        with number_format.autocast():
            levels = model.backbone(pair)
        halves = {name: features.chunk(2) for name, features in levels.items()}
        anomalous, clean = ({name: half[i] for name, half in halves.items()} for i in (0, 1))
        mask = batch["mask"].to(process.device, non_blocking=True)
        for key, value in afs_criteria(model.afs, anomalous, clean, mask).items():
            totals[key] += distributed.mean(value)
    model.afs.choose(totals)
    train_set.only_anomalous = False


def _restore(model: RealNet, optimisation: Optimisation, stored: dict[str, Any], path: Path) -> None:
    backbone = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    checkpoint.load_into(model, {**backbone, **stored["model"]}, str(path))
    optimisation.load_state_dict(stored["optimisation"])

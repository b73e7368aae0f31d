"""Feed a training loop: the micro-batches of every step, from the step it starts at."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from realnet.config import RuntimeConfig, TrainConfig
from realnet.data.sampling import EpochSampler
from realnet.distributed import Process


def make_sampler(
    dataset: Dataset, config: TrainConfig, process: Process, *, seed: int, start_step: int = 0
) -> EpochSampler:
    """Return the order in which a process sees the training items from ``start_step`` on."""
    return EpochSampler(
        len(dataset),  # type: ignore[arg-type]  # torch's Dataset declares no length
        seed=seed,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        rank=process.rank,
        world_size=process.world_size,
        start_step=start_step,
    )


def total_steps(config: TrainConfig, sampler: EpochSampler) -> int:
    """Return the optimiser steps of the whole training."""
    return config.num_steps or config.num_epochs * sampler.steps_per_epoch


def batches(
    dataset: Dataset, sampler: EpochSampler, runtime: RuntimeConfig, process: Process
) -> Iterator[dict[str, Any]]:
    """Yield micro-batches without end, collated on the CPU."""
    loader = DataLoader(
        dataset,
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=runtime.num_workers,
        worker_init_fn=_leave_signals_to_main,
        persistent_workers=runtime.num_workers > 0,
        pin_memory=process.device.type == "cuda",
    )
    return iter(loader)


def _leave_signals_to_main(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)

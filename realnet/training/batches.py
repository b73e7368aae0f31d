"""Feed a training loop with micro-batches, from the step at which it starts."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any

from torch.utils.data import DataLoader, Dataset

from realnet.config import RuntimeConfig, TrainConfig
from realnet.data.order import EpochOrder
from realnet.errors import UserError
from realnet.runtime.distributed import World
from realnet.runtime.signals import leave_signals_to_main
from realnet.runtime.threads import data_workers


def make_order(dataset: Sized, config: TrainConfig, world: World, *, seed: int, draws: int) -> EpochOrder:
    """Return the order in which a process sees the training items, by a run's ``seed`` and ``draws``.

    Where the dataset has ``groups``, batches hold as many items of each (:class:`EpochOrder`).

    Raises:
        UserError: if there are too few items for a batch.
    """
    require_batches({"the dataset": len(dataset)}, config, world.size)
    return EpochOrder(
        len(dataset),
        seed=seed,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        rank=world.rank,
        world_size=world.size,
        draws=draws,
        groups=getattr(dataset, "groups", None),
    )


def require_batches(numbers: Mapping[str, int], config: TrainConfig, num_processes: int = 1) -> None:
    """Check that there are enough images for the batch of one step, over all processes.

    Args:
        numbers: how many training images there are for each network, by its name in words.
        config: training settings of the stage.
        num_processes: number of processes of the run.

    Raises:
        UserError: names every network with too few images.
    """
    needed = config.batch_size * config.accumulation * num_processes
    few = [f"{name}: {number} training images" for name, number in numbers.items() if number < needed]
    if few:
        factors = f"train.batch_size {config.batch_size} x train.accumulation {config.accumulation}"
        head = f"too few images for a batch of {needed} ({factors} x {num_processes} processes)"
        smaller = ", or ".join(
            advice
            for value, advice in (
                (config.batch_size, "lower the batch with --set train.batch_size=N"),
                (config.accumulation, "lower --set train.accumulation=N"),
                (num_processes, "start fewer processes"),
            )
            if value > 1
        )
        raise UserError("\n  ".join([f"{head}; add images{', or ' if smaller else ''}{smaller}:", *few]))


def total_steps(config: TrainConfig, order: EpochOrder) -> int:
    """Return the number of optimiser steps of the whole training."""
    return config.num_steps or config.num_epochs * order.steps_per_epoch


def batches(dataset: Dataset, order: EpochOrder, runtime: RuntimeConfig, world: World) -> Iterator[dict[str, Any]]:
    """Return an iterator over micro-batches, collated on the CPU, in the given order."""
    loader = DataLoader(
        dataset,
        batch_size=order.batch_size,
        sampler=order,
        num_workers=data_workers(runtime.num_workers),
        worker_init_fn=leave_signals_to_main,
        persistent_workers=runtime.num_workers > 0,
        pin_memory=world.device.type == "cuda",
    )
    return iter(loader)

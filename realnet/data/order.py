"""Which item is used when: a function of seed and step alone, so that a run goes on exactly where it stopped."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

ItemKey = tuple[int, int]
"""Of a training item: the pass over the data that its random draws belong to (epoch), and the image (index)."""


class EpochOrder(Sampler[ItemKey]):
    """Yields the keys of one process's micro-batches, step after step.

    A step takes the next ``batch_size · accumulation · world_size`` items (the global batch) of the epoch's
    permutation, which depends on (seed, epoch); its micro-batch k on rank r is the slice number
    k · world_size + r. So several processes take together what one process with larger batches takes. What is left of
    a permutation after the last full global batch is not used in that epoch.

    Args:
        num_items: size of the dataset.
        seed: of the permutations.
        batch_size: items of a micro-batch of one process; give the same number to the DataLoader.
        accumulation: micro-batches of a step.
        rank: this process's number among ``world_size``.
        world_size: number of processes.
        start_step: the first step to yield, to resume.
        num_steps: the step to stop before; None: never stop.

    Raises:
        ValueError: where the items are fewer than a global batch, or a number is out of its range.
    """

    def __init__(
        self,
        num_items: int,
        *,
        seed: int,
        batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> None:
        is_in_range = min(batch_size, accumulation, world_size) >= 1 and 0 <= rank < world_size and start_step >= 0
        if not is_in_range or num_items < batch_size * accumulation * world_size:
            raise ValueError(
                f"cannot sample {num_items} items in batches of {batch_size} x {accumulation} as rank {rank} of "
                f"{world_size} from step {start_step}; all counts must be at least 1, rank below world_size, and the "
                "items enough for a batch of all"
            )
        self.num_items, self.seed, self.batch_size, self.accumulation = num_items, seed, batch_size, accumulation
        self.rank, self.world_size, self.start_step, self.num_steps = rank, world_size, start_step, num_steps

    @property
    def global_batch(self) -> int:
        """Return the number of items of one step, over all processes."""
        return self.batch_size * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps of an epoch."""
        return self.num_items // self.global_batch

    def epoch_of(self, step: int) -> int:
        """Return the epoch that a step belongs to."""
        return step // self.steps_per_epoch

    def __iter__(self) -> Iterator[ItemKey]:
        step = self.start_step
        while self.num_steps is None or step < self.num_steps:
            for micro_step in range(self.accumulation):
                yield from self._micro_batch(step, micro_step)
            step += 1

    def _micro_batch(self, step: int, micro_step: int) -> Iterator[ItemKey]:
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start = step_of_epoch * self.global_batch + (micro_step * self.world_size + self.rank) * self.batch_size
        for index in _permutation(self.seed, epoch, self.num_items)[start : start + self.batch_size]:
            yield epoch, int(index)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_items: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num_items)

"""The order of training items: a function of seed and step alone, so that a run resumes exactly where it stopped."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from realnet.runtime.randomness import DRAWS, generator

ItemKey = tuple[int, int]
"""Key of a training item: (epoch, index), the pass over the data and the number of the image."""


class EpochOrder(Sampler[ItemKey]):
    """Yield the item keys of one process's micro-batches, step by step.

    A step takes the next ``batch_size · accumulation · world_size`` items (the global batch) of the epoch's
    permutation, which depends on (seed, epoch). Micro-batch k of rank r is slice k · world_size + r of the global
    batch, so several processes together take the same items as one process with larger batches. Items that do not
    fill a global batch at the end of an epoch are not used in that epoch.

    Args:
        num_items: size of the dataset.
        seed: seed of the permutations.
        batch_size: items in a micro-batch of one process; give the DataLoader the same number.
        accumulation: micro-batches in a step.
        rank: this process's number, from 0 to ``world_size`` - 1.
        world_size: number of processes.
        start_step: the first step to yield, when resuming.
        num_steps: the step to stop before; None never stops.
        draws: how the permutations follow from the seed (:func:`realnet.runtime.randomness.generator`).
        groups: the items of each class where batches hold as many of one as of another: the classes take turns, each in
            permutations of its own, so that the items of a small one come more often. An item's epoch is then the
            pass over its class. None takes all items alike.

    Raises:
        ValueError: if there are fewer items than a global batch, or a number is out of range.
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
        draws: int = DRAWS,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        is_in_range = min(batch_size, accumulation, world_size) >= 1 and 0 <= rank < world_size and start_step >= 0
        if not is_in_range or num_items < batch_size * accumulation * world_size:
            raise ValueError(
                f"cannot order {num_items} items in batches of {batch_size} x {accumulation} as rank {rank} of "
                f"{world_size} from step {start_step}; all counts must be at least 1, rank below world_size, and the "
                "items at least one global batch"
            )
        self.num_items, self.seed, self.batch_size, self.accumulation = num_items, seed, batch_size, accumulation
        self.rank, self.world_size, self.start_step, self.num_steps = rank, world_size, start_step, num_steps
        self.draws, self.groups = draws, groups

    @property
    def global_batch(self) -> int:
        """Return the number of items in a step, over all processes."""
        return self.batch_size * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps in an epoch."""
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
        if self.groups is not None:
            first = epoch * self.steps_per_epoch * self.global_batch + start
            yield from (self._in_turn(first + place, self.groups) for place in range(self.batch_size))
            return
        for index in _permutation(self.seed, epoch, self.num_items, self.draws)[start : start + self.batch_size]:
            yield epoch, int(index)

    def _in_turn(self, position: int, groups: Sequence[Sequence[int]]) -> ItemKey:
        """Return the key at a position in the endless row in which the groups take turns."""
        turn, place = divmod(position, len(groups))
        group = int(_group_permutation("turns", self.seed, turn, 0, len(groups))[place])
        members = groups[group]
        epoch, index = divmod(turn, len(members))
        return epoch, members[_group_permutation("group order", self.seed, epoch, group, len(members))[index]]


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_items: int, draws: int) -> NDArray[np.int64]:
    return generator("order", seed, epoch, draws=draws).permutation(num_items)


@lru_cache(maxsize=256)
def _group_permutation(purpose: str, seed: int, number: int, group: int, length: int) -> NDArray[np.int64]:
    return generator(purpose, seed, number, group).permutation(length)


def spread(length: int, number: int) -> list[int]:
    """Return ``number`` indexes into ``length`` items, evenly spread from first to last."""
    return [int(index) for index in np.linspace(0, length - 1, number).round()]

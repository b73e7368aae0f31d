from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realnet.data.order import EpochOrder


def steps(count, sampler):
    """The keys of each step."""
    size = sampler.batch_size * sampler.accumulation
    keys = list(islice(sampler, count * size))
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def test_an_epoch_takes_each_item_once_and_the_next_another_order():
    sampler = EpochOrder(12, seed=0, batch_size=4)
    assert sampler.steps_per_epoch == 3
    keys = list(islice(sampler, 24))
    first, second = keys[:12], keys[12:]
    assert sorted(first) == [(0, index) for index in range(12)]
    assert sorted(second) == [(1, index) for index in range(12)]
    assert [index for _, index in first] != [index for _, index in second]
    assert first != sorted(first)


def test_the_rest_of_a_permutation_is_cut():
    sampler = EpochOrder(11, seed=0, batch_size=4)
    assert sampler.steps_per_epoch == 2
    assert [step[0][0] for step in steps(5, sampler)] == [0, 0, 1, 1, 2]
    assert [sampler.epoch_of(step) for step in range(5)] == [0, 0, 1, 1, 2]


def test_seeds_differ():
    assert steps(1, EpochOrder(50, seed=0, batch_size=8)) != steps(1, EpochOrder(50, seed=1, batch_size=8))
    assert steps(9, EpochOrder(50, seed=1, batch_size=8)) == steps(9, EpochOrder(50, seed=1, batch_size=8))


@given(
    num_items=st.integers(36, 80),
    batch_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    world_size=st.integers(1, 3),
)
def test_processes_and_micro_batches_split_the_batch_of_one(num_items, batch_size, accumulation, world_size):
    whole = EpochOrder(num_items, seed=3, batch_size=batch_size * accumulation * world_size)
    parts = [
        EpochOrder(
            num_items, seed=3, batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    for together, *split in zip(steps(5, whole), *(steps(5, part) for part in parts), strict=True):
        joined = [
            key
            for micro in range(accumulation)
            for part in split
            for key in part[micro * batch_size : (micro + 1) * batch_size]
        ]
        assert joined == together


@given(num_items=st.integers(12, 40), start=st.integers(0, 12))
def test_resumes_exactly(num_items, start):
    whole = EpochOrder(num_items, seed=0, batch_size=3, accumulation=2, rank=1, world_size=2, num_steps=15)
    rest = EpochOrder(
        num_items, seed=0, batch_size=3, accumulation=2, rank=1, world_size=2, start_step=start, num_steps=15
    )
    assert steps(15, whole)[start:] == steps(15, rest)
    assert len(list(rest)) == (15 - start) * 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_items": 1},
        {"num_items": 7, "accumulation": 4},
        {"batch_size": 0},
        {"rank": 2, "world_size": 2},
        {"rank": -1},
        {"start_step": -1},
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="cannot order"):
        EpochOrder(**{"num_items": 5, "seed": 0, "batch_size": 2, **wrong})


@given(world_size=st.integers(1, 2), accumulation=st.integers(1, 2), batch_size=st.integers(1, 4))
def test_groups_take_turns_and_a_small_one_comes_round_more_often(world_size, accumulation, batch_size):
    groups = [list(range(20)), [20, 21, 22], list(range(23, 40))]
    options = {"seed": 3, "batch_size": batch_size, "accumulation": accumulation, "world_size": world_size}
    parts = [EpochOrder(40, rank=rank, groups=groups, **options) for rank in range(world_size)]
    whole = EpochOrder(40, seed=3, batch_size=batch_size * accumulation * world_size, groups=groups)
    keys: list = []
    for together, *split in zip(steps(30, whole), *(steps(30, part) for part in parts), strict=True):
        assert sorted(together) == sorted(key for part in split for key in part)
        numbers = [sum(index in group for _, index in together) for group in groups]
        assert max(numbers) - min(numbers) <= 2
        keys += together
    assert len(set(keys)) == len(keys)  # no item is drawn twice alike
    for group in groups:
        mine = [key for key in keys if key[1] in group]
        for epoch in range(len(mine) // len(group)):
            turn = mine[epoch * len(group) : (epoch + 1) * len(group)]
            assert sorted(turn) == [(epoch, index) for index in group]
    late = EpochOrder(40, seed=3, batch_size=4, groups=groups, start_step=7)
    early = EpochOrder(40, seed=3, batch_size=4, groups=groups)
    assert steps(3, late) == steps(10, early)[7:]

from itertools import product

import numpy as np

from realnet.config import ClassifierConfig, RealNetConfig
from realnet.data.order import _permutation
from realnet.runtime.randomness import generator, seed_of


def test_what_differs_at_all_has_another_seed():
    values = [
        (),
        (0,),
        (1,),
        (0, 0),
        (1, 0),
        (0, 1),
        (2**32,),
        (2**32 + 1,),
        (1, 1),
        ("1",),
        (1, 0, 0),
        ("ab",),
        ("a", "b"),
    ]
    seeds = {seed_of(purpose, *numbers) for purpose, numbers in product(("order", "detector"), values)}
    assert len(seeds) == 2 * len(values) and max(seeds) > 2**120
    assert seed_of("a", np.int64(3)) == seed_of("a", 3) == seed_of("a", np.uint8(3))


def test_the_order_of_an_epoch_and_its_first_item_share_no_numbers():
    """In version 1.0 they came from one stream: zeros at the end did not count."""
    order, first = (np.random.default_rng(values).permutation(1000) for values in ((7, 3), (7, 3, 0)))
    assert np.array_equal(order, first)
    assert np.array_equal(_permutation(7, 3, 1000, 1), order)
    order, first = _permutation(7, 3, 1000, 2), generator("detector", 7, 3, 0).permutation(1000)
    assert np.mean(order == first) < 0.05


def test_version_1_0_can_be_repeated():
    assert generator("any", 5, 1, 2, draws=1).random() == np.random.default_rng((5, 1, 2)).random()
    assert RealNetConfig().draws == ClassifierConfig().draws == 2

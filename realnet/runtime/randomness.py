"""Random numbers by purpose: generators of 128 bits that share no numbers."""

import hashlib

import numpy as np

DRAWS = 2
"""The current way from seeds to random numbers; 1 is that of version 1.0."""


def seed_of(purpose: str, *values: int | str) -> int:
    """Return a seed of 128 bits for a purpose and its values, such as a run's seed, an epoch and an index.

    Other purposes, values, or numbers of values give another seed, whatever their size.
    """
    plain = [value if isinstance(value, str) else int(value) for value in values]
    return int.from_bytes(hashlib.blake2b(repr((purpose, *plain)).encode(), digest_size=16).digest())


def generator(purpose: str, *values: int, draws: int = DRAWS) -> np.random.Generator:
    """Return the generator for a purpose and its values (:func:`seed_of`).

    With ``draws`` 1, the purpose does not count, and neither do zeros at the end, as in version 1.0.
    """
    return np.random.default_rng(values if draws == 1 else seed_of(purpose, *values))

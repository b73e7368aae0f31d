"""Respacing: a shorter process on a subset of the steps (docs/method.md, Diffusion process)."""

from collections.abc import Sequence
from itertools import accumulate, repeat

import numpy as np
from numpy.typing import NDArray


def space_timesteps(num_steps: int, respacing: str | Sequence[int]) -> list[int]:
    """Choose the original timesteps that a respaced process keeps (docs/method.md, Diffusion process).

    Args:
        num_steps: T of the original process.
        respacing: ``""`` keeps all; ``"ddimN"`` keeps N steps at one integer stride; ``"a,b,c"``, or a sequence of
            numbers, cuts the process into sections of equal length and keeps that many steps of each.

    Returns:
        The kept timesteps in [0, T), ascending.

    Raises:
        ValueError: if no integer stride gives N steps, a section is shorter than its count, or the text has another
            form.
    """
    if respacing == "":
        return list(range(num_steps))
    if isinstance(respacing, str) and (count := count_of(respacing, "ddim")) is not None:
        return _at_one_stride(num_steps, count)
    if isinstance(respacing, str):
        respacing = [_count(part, respacing) for part in respacing.split(",")]
    return _in_sections(num_steps, respacing)


def space_by_snr(alphas_cumprod: NDArray[np.float64], count: int) -> list[int]:
    """Keep ``count`` timesteps, from the first to the last, whose log-SNR log(ᾱ / (1 - ᾱ)) are about evenly spread.

    Solvers of higher order need such steps (docs/method.md, DPM-Solver++).

    Args:
        alphas_cumprod: (T,) of the original process.
        count: 2 to T.

    Raises:
        ValueError: for another count.
    """
    if not 2 <= count <= len(alphas_cumprod):
        raise ValueError(
            f"timestep_respacing 'snr{count}' is impossible; keep between 2 and {len(alphas_cumprod)} steps"
        )
    log_snr = np.log(alphas_cumprod / (1 - alphas_cumprod))  # falls with t
    nearest = np.abs(np.linspace(log_snr[0], log_snr[-1], count)[:, None] - log_snr).argmin(axis=1)
    later = np.maximum.accumulate(nearest - np.arange(count)) + np.arange(count)  # each once, in order
    return [int(step) for step in np.minimum(later, len(log_snr) - np.arange(count, 0, -1))]


def respaced_betas(alphas_cumprod: NDArray[np.float64], kept: Sequence[int]) -> NDArray[np.float64]:
    """Return betas with which the kept steps reach the original noise levels (docs/method.md, Diffusion process).

    Args:
        alphas_cumprod: (T,) of the original process.
        kept: ascending timesteps in [0, T).

    Returns:
        (len(kept),) float64: 1 - ᾱ_i / ᾱ_j for each kept step i and the kept step j before it; ᾱ_j is 1 for the first.
    """
    levels = alphas_cumprod[np.asarray(kept)]
    return 1 - levels / np.append(1.0, levels[:-1])


def count_of(respacing: str, kind: str) -> int | None:
    """Return N of ``<kind>N``; None for a respacing of another kind (docs/method.md, Diffusion process).

    Raises:
        ValueError: if N is no number.
    """
    return _count(respacing.removeprefix(kind), respacing) if respacing.startswith(kind) else None


def _count(text: str, respacing: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"timestep_respacing is {respacing!r}; write it as 'ddim20', 'snr10', '10,15,20' or ''")
    return int(text)


def _at_one_stride(num_steps: int, count: int) -> list[int]:
    if not 1 <= count <= num_steps:
        raise ValueError(f"timestep_respacing 'ddim{count}' is impossible; keep between 1 and {num_steps} steps")
    stride = -(-num_steps // count)
    kept = range(0, num_steps, stride)
    if len(kept) != count:
        more = len(range(0, num_steps, stride - 1))
        raise ValueError(
            f"timestep_respacing 'ddim{count}': no integer stride keeps exactly {count} of {num_steps} steps; "
            f"the nearest are 'ddim{len(kept)}' and 'ddim{more}'"
        )
    return list(kept)


def _in_sections(num_steps: int, counts: Sequence[int]) -> list[int]:
    if not counts or min(counts) < 1:
        raise ValueError(f"timestep_respacing is {list(counts)}; give each section at least 1 step")
    size, longer = divmod(num_steps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        length = size + (index < longer)
        if count > length:
            raise ValueError(
                f"timestep_respacing {list(counts)}: section {index + 1} has {length} steps, too few for {count}; "
                f"lower the count"
            )
        kept += [start + offset for offset in _evenly(length, count)]
        start += length
    return kept


def _evenly(length: int, count: int) -> list[int]:
    """Spread ``count`` offsets evenly from 0 to length - 1, both included."""
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    # Sum the strides instead of multiplying, so that halves round as in the published implementation.
    return [round(offset) for offset in accumulate(repeat(stride, count - 1), initial=0.0)]

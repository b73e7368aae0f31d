import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion import GaussianDiffusion, schedule
from guided_diffusion.respacing import respaced_betas, space_by_snr, space_timesteps


@pytest.mark.parametrize(
    ("num_steps", "respacing", "kept"),
    [
        (5, "", [0, 1, 2, 3, 4]),
        (1000, "ddim10", list(range(0, 1000, 100))),
        (10, "ddim4", [0, 3, 6, 9]),
        (10, "2,3", [0, 4, 5, 7, 9]),
        (10, [1, 1, 2], [0, 4, 7, 9]),
        (11, [2, 4], [0, 5, 6, 7, 9, 10]),
    ],
)
def test_keeps_the_steps_asked_for(num_steps, respacing, kept):
    assert space_timesteps(num_steps, respacing) == kept


@given(num_steps=st.integers(1, 300), count=st.integers(1, 300))
def test_ddim_finds_the_stride_wherever_there_is_one(num_steps, count):
    possible = {len(range(0, num_steps, stride)) for stride in range(1, num_steps + 1)}
    if count in possible:
        kept = space_timesteps(num_steps, f"ddim{count}")
        assert len(kept) == count
        assert len(set(np.diff(kept))) <= 1
    else:
        with pytest.raises(ValueError, match=f"ddim{count}"):
            space_timesteps(num_steps, f"ddim{count}")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(60, 200))
def test_sections_keep_their_counts(counts, num_steps):
    kept = space_timesteps(num_steps, counts)
    assert kept == sorted(set(kept))
    assert len(kept) == sum(counts)
    assert 0 <= kept[0] <= kept[-1] < num_steps


def test_an_impossible_stride_names_the_nearest_that_work():
    with pytest.raises(ValueError, match=r"'ddim300'.*'ddim250' and 'ddim334'"):
        space_timesteps(1000, "ddim300")


@pytest.mark.parametrize("respacing", ["fast", "ddim", "ddimx", "10,,20", "-5", "6,6", "0,5", [], [11]])
def test_refuses_what_it_cannot_keep(respacing):
    with pytest.raises(ValueError, match="timestep_respacing"):
        space_timesteps(10, respacing)


def test_respaced_betas_reach_the_same_noise_levels():
    alphas_cumprod = np.cumprod(1 - schedule.betas("linear", 100))
    kept = [0, 7, 50, 99]
    np.testing.assert_allclose(np.cumprod(1 - respaced_betas(alphas_cumprod, kept)), alphas_cumprod[kept], rtol=1e-12)


@pytest.mark.parametrize("count", [2, 10, 40, 1000])
def test_steps_are_even_in_log_snr_as_far_as_there_are_steps(count):
    alphas_cumprod = np.cumprod(1 - schedule.betas("linear", 1000))
    kept = space_by_snr(alphas_cumprod, count)
    log_snr = np.log(alphas_cumprod / (1 - alphas_cumprod))[kept]
    assert len(kept) == count and (kept[0], kept[-1]) == (0, 999) and (np.diff(kept) > 0).all()
    assert count > 10 or np.ptp(np.diff(log_snr)) < 0.12 * np.abs(np.diff(log_snr)).mean()


@pytest.mark.parametrize("respacing", ["snr1", "snr1001", "snr", "snrx"])
def test_refuses_numbers_of_steps_that_there_are_not(respacing):
    with pytest.raises(ValueError, match="timestep_respacing"):
        GaussianDiffusion.create(respacing=respacing)

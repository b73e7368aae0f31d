import pytest
from scipy.stats import beta, binom

from realnet.metrics.intervals import Rate, auroc_interval, binomial_cdf, images_needed


@pytest.mark.parametrize(("count", "number"), [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (27, 80), (5, 10_000)])
def test_the_interval_is_that_of_clopper_and_pearson(count, number):
    rate = Rate.of(count, number)
    low = beta.ppf(0.025, count, number - count + 1) if count else 0
    high = beta.ppf(0.975, count + 1, number - count) if count < number else 1
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-9)


def test_the_binomial_distribution_is_summed():
    for count, number, share in [(0, 5, 0.3), (4, 5, 0.3), (5, 5, 0.3), (30, 1000, 0.05), (2, 9, 0.0), (2, 9, 1.0)]:
        assert binomial_cdf(count, number, share) == pytest.approx(binom.cdf(count, number, share), abs=1e-12)


def test_as_many_images_as_needed_and_no_fewer_promise_a_rate():
    for rate in (0.01, 0.05, 0.3):
        number = images_needed(rate)
        assert Rate.of(0, number).high <= rate < Rate.of(0, number - 1).high
    assert images_needed(0.01) == 368


def test_a_rate_is_told_with_its_interval():
    assert str(Rate.of(0, 20)) == "0 of 20 (0 %; 95 % interval 0 % to 16.8 %)"


def test_an_auroc_has_the_interval_of_hanley_and_mcneil():
    # the example of their paper's Table II: area 0.893 of 51 abnormal and 58 normal, standard error 0.032
    low, high = auroc_interval(0.893, 51, 58)
    assert (high - low) / 2 / 1.96 == pytest.approx(0.032, abs=1e-3)
    assert auroc_interval(1.0, 5, 5) == (1.0, 1.0)

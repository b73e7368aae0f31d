import pytest
import torch

from realnet.models.gaussian import Moments, PooledGaussian, PositionGaussian, by_position, shrink

SIZE = (2, 3)


@pytest.fixture
def features():
    """Normal features (N, C, h, w) whose mean and covariance differ from position to position."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 4, 4, generator=generator) + 2 * torch.eye(4)
    noise = torch.randn(500, 6, 4, 1, generator=generator)
    values = (mixing @ noise)[..., 0] + 100 * torch.randn(6, 4, generator=generator)
    return values.movedim(1, 2).unflatten(2, SIZE)


def moments_of(features, batch_size=64):
    moments = Moments.empty(by_position(features[:batch_size]).mean(dim=1))
    for batch in features.split(batch_size):
        moments.add(batch)
    return moments


def fitted(moments):
    gaussian = PositionGaussian(4, SIZE)
    return gaussian.fit(moments.mean(), moments.covariance())


def test_moments_are_mean_and_covariance_at_each_position(features):
    moments = moments_of(features)
    rows = by_position(features.double())
    for position in range(6):
        assert torch.allclose(moments.mean()[position], rows[position].mean(dim=0).float(), rtol=1e-5)
        expected = torch.cov(rows[position].T).float()
        assert torch.allclose(moments.covariance()[position], expected, rtol=1e-3, atol=1e-3)


def test_folds_add_up_and_are_taken_out_again(features):
    origin = by_position(features).mean(dim=1)
    folds = [Moments.empty(origin) for _ in range(3)]
    for fold, part in zip(folds, features.chunk(3), strict=True):
        fold.add(part)
    without_first, rest = folds[0] + folds[1] + folds[2] - folds[0], moments_of(features[len(features.chunk(3)[0]) :])
    assert without_first.count == rest.count
    assert torch.allclose(without_first.covariance(), rest.covariance(), rtol=1e-3, atol=1e-2)


def test_whitened_normal_features_have_unit_covariance(features):
    white = fitted(moments_of(features))(features)
    assert white.shape == features.shape
    moments = moments_of(white)
    assert moments.mean().abs().max() < 1e-3
    assert torch.allclose(moments.covariance(), torch.eye(4).expand(6, 4, 4), atol=1e-2)


def test_the_distance_is_mahalanobis(features):
    moments = moments_of(features)
    odd = features[:1] + 5
    centred = (odd - features.mean(dim=0)).flatten(2)[0].T.double()  # (P, C)
    squared = torch.einsum("pc,pcd,pd->p", centred, moments.covariance().double().inverse(), centred)
    white = fitted(moments)(odd)
    assert torch.allclose(white.square().sum(dim=1).flatten(), squared.float(), rtol=2e-3)


def test_shrinkage_reaches_from_each_position_to_the_pooled_covariance_at_the_position_s_own_variance(features):
    covariance = moments_of(features).covariance()
    covariance[0] *= 9
    pooled, traces = covariance.mean(dim=0), covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
    target = traces[:, None, None] / pooled.trace() * pooled
    assert torch.allclose(shrink(covariance.clone(), 1.0, 0.0), target, rtol=1e-4)
    half = shrink(covariance.clone(), 0.5, 0.1)
    assert torch.allclose(half, (covariance + target) / 2 + 0.1 * pooled.trace() / 4 * torch.eye(4), rtol=1e-4)


def test_two_images_suffice_with_a_ridge(features):
    few = shrink(moments_of(features[:2]).covariance(), 0.1, 1e-3)
    assert PositionGaussian(4, SIZE).fit(moments_of(features[:2]).mean(), few)(features).isfinite().all()


def test_one_gaussian_of_all_positions_whitens_maps_of_any_size(features):
    rows = features.movedim(1, 3).reshape(-1, 4, 1, 1)
    moments = moments_of(rows)
    white = PooledGaussian(4).fit(moments.mean(), moments.covariance())(features)
    assert white.shape == features.shape
    samples = white.movedim(1, 3).flatten(0, 2)
    torch.testing.assert_close(samples.mean(dim=0), torch.zeros(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(torch.cov(samples.T), torch.eye(4), atol=1e-2, rtol=0)

import pytest
import torch

from realnet.models import nearest
from realnet.models.nearest import NearestNeighbour, average_3x3, greedy_coreset


def test_the_coreset_takes_one_of_each_cluster_before_a_second_of_any():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(8, 200, generator=generator)
    features = (centres[:, None] + 0.1 * torch.randn(8, 50, 200, generator=generator)).flatten(0, 1)
    chosen = greedy_coreset(features, 8, torch.Generator().manual_seed(1))
    assert sorted((chosen // 50).tolist()) == list(range(8))


def test_each_choice_is_the_farthest_from_those_before():
    features = torch.tensor([[0.0], [1.0], [4.0], [10.0]])
    chosen = greedy_coreset(features, 4, torch.Generator().manual_seed(0)).tolist()
    assert sorted(chosen) == [0, 1, 2, 3]
    rest = {0: [3, 2, 1], 1: [3, 2, 0], 2: [3, 0, 1], 3: [0, 2, 1]}
    assert chosen[1:] == rest[chosen[0]]


@pytest.mark.parametrize(("channels", "dimensions"), [(6, nearest.PROJECTED), (200, None)])
def test_few_candidates_at_a_time_give_the_choices_of_all_at_once(monkeypatch, channels, dimensions):
    features = torch.randn(400, channels, generator=torch.Generator().manual_seed(0))
    features[:100] = features[:1]  # equal ones, of which one is enough
    expected, distances = [], torch.full((400,), torch.inf)
    monkeypatch.setattr(nearest, "CANDIDATES", 10)
    found = greedy_coreset(features, 150, torch.Generator().manual_seed(0), dimensions).tolist()
    for choice in [found[0], *range(149)]:
        index = choice if not expected else int(distances.argmax())
        expected.append(index)
        distances = torch.minimum(distances, (features - features[index]).square().sum(dim=1))
    assert found == expected


def test_the_distance_is_that_to_the_nearest_feature():
    generator = torch.Generator().manual_seed(0)
    memory, features = torch.randn(30, 5, generator=generator), torch.randn(2, 5, 4, 6, generator=generator)
    found = NearestNeighbour(memory)(features)
    assert found.shape == (2, 1, 4, 6)
    expected = (features.movedim(1, 3)[..., None, :] - memory).norm(dim=-1).amin(dim=-1)
    assert torch.allclose(found[:, 0], expected, atol=1e-5)


def test_features_are_averaged_with_their_neighbours_and_zeros_beyond_the_edges():
    features = torch.arange(12.0).reshape(1, 1, 3, 4)
    averaged = average_3x3(features)[0, 0]
    assert averaged[1, 1] == features[0, 0, :3, :3].mean()
    assert averaged[0, 0] == features[0, 0, :2, :2].sum() / 9

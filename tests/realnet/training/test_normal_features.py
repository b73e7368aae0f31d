import torch
from torch import nn

from realnet.models.nearest import NearestNeighbour
from realnet.training.normal_features import NormalFeatures


def filled(maps, *, number, **budget):
    made = NormalFeatures(number, **budget)
    for part in maps.split(2):
        made.add({"one": part})
    nearest = nn.ModuleDict({"one": NearestNeighbour(torch.zeros(4096, maps.shape[1]))})
    made.fill(nearest)
    return nearest["one"]


def test_few_features_are_all_kept():
    maps = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    nearest = filled(maps, number=4)
    assert nearest(maps).max() < 1e-3
    assert nearest(maps + 5).min() > 1


def test_many_features_are_drawn_evenly_from_the_maps():
    maps = torch.arange(6.0)[:, None, None, None] * torch.ones(6, 8, 128, 128)  # 0.5 MiB each
    nearest = filled(maps, number=6, budget_mib=1)
    assert set(nearest.memory[:, 0].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}

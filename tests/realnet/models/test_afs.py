import math

import pytest
import torch
import torch.nn.functional as F

from realnet.errors import UserError
from realnet.models.afs import AFS, Block, Selection, afs_criteria, afs_criterion, resize, select_channels
from realnet.models.backbone import Level
from tests.closed_form import wave

FINE, COARSE = Level("layer1", 12, 4), Level("layer2", 8, 8)


def mask_of(image_size=(32, 64)):
    mask = torch.zeros(2, 1, *image_size)
    mask[:, :, 8:20, 16:40] = 1
    return mask


def test_figures():
    block = Block("block1", 4, (Selection(FINE, 4), Selection(COARSE, 3)))
    afs = AFS([block])
    mask = (wave("mask", 2, 1, 32, 32) > 0.6).float()
    clean = {"layer1": wave("layer1", 2, 12, 8, 8), "layer2": wave("layer2", 2, 8, 4, 4)}
    anomalous = {name: value + wave(f"change {name}", *value.shape).relu() for name, value in clean.items()}
    criteria = afs_criteria(afs, anomalous, clean, mask)
    assert criteria["block1_layer1"][:3].tolist() == pytest.approx([0.286392, 0.252085, 0.291635], rel=1e-4)
    assert criteria["block1_layer2"][:3].tolist() == pytest.approx([0.205771, 0.17822, 0.175602], rel=1e-4)
    afs.choose(criteria)
    assert afs.indexes.block1_layer1.tolist() == [1, 3, 5, 7]
    assert afs.indexes.block1_layer2.tolist() == [1, 2, 6]


def test_the_criterion_in_closed_form():
    change = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])  # squared: 0, 1, 4, 9; over its largest: 0, 1/9, 4/9, 1
    mask = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
    expected = ((1 / 9) ** 2 + (1 - 4 / 9) ** 2) / 4
    assert afs_criterion(change, torch.zeros_like(change), mask, (2, 2)).item() == pytest.approx(expected, abs=1e-4)


def test_planted_channels_are_found_at_another_stride_than_the_levels():
    mask, planted = mask_of(), {"layer1": [2, 7, 11], "layer2": [0, 5]}
    block = Block("block", 8, (Selection(COARSE, 2), Selection(FINE, 3)))
    afs = AFS([block])
    clean = {"layer1": wave("layer1", 2, 12, 8, 16), "layer2": wave("layer2", 2, 8, 4, 8)}
    anomalous = {name: value + wave(f"noise {name}", *value.shape) for name, value in clean.items()}
    for name, channels in planted.items():  # they change where the mask is, some more and some less
        gain = torch.tensor([0.5, 100.0, 1.0])[: len(channels), None, None]
        anomalous[name][:, channels] = clean[name][:, channels] + gain * F.interpolate(mask, clean[name].shape[-2:])
    afs.choose(afs_criteria(afs, anomalous, clean, mask))
    assert afs.indexes.block_layer1.tolist() == planted["layer1"]
    assert afs.indexes.block_layer2.tolist() == planted["layer2"]


def test_the_smallest_are_kept_in_ascending_order_and_nan_comes_last():
    assert select_channels(torch.tensor([0.3, math.nan, 0.1, 0.2, math.nan]), 3).tolist() == [0, 2, 3]
    assert select_channels(torch.tensor([0.3, math.nan, 0.1]), 3).tolist() == [0, 1, 2]
    assert select_channels(torch.zeros(5), 2).tolist() == [0, 1]


def test_features_come_in_the_order_of_the_blocks_levels_at_the_blocks_stride():
    afs = AFS([Block("a", 8, (Selection(COARSE, 2), Selection(FINE, 3))), Block("b", 4, (Selection(COARSE, 8),))])
    afs.indexes.a_layer2.copy_(torch.tensor([1, 6]))
    afs.indexes.a_layer1.copy_(torch.tensor([0, 4, 9]))
    levels = {"layer1": wave("fine", 2, 12, 8, 16), "layer2": wave("coarse", 2, 8, 4, 8)}
    features = afs(levels, (32, 64))
    assert features["a"].shape == (2, 5, 4, 8) and features["b"].shape == (2, 8, 8, 16)
    torch.testing.assert_close(features["a"][:, :2], levels["layer2"][:, [1, 6]])
    torch.testing.assert_close(features["a"][:, 2:], resize(levels["layer1"][:, [0, 4, 9]], (4, 8)))
    corner = (..., 0, 0), (..., -1, -1)
    for place in corner:  # aligned corners stay where they are
        torch.testing.assert_close(features["b"][place], levels["layer2"][place])


def test_the_choice_is_stored_under_its_published_names():
    afs = AFS([Block("block1", 4, (Selection(FINE, 5), Selection(COARSE, 2)))])
    assert {key: tuple(value.shape) for key, value in afs.state_dict().items()} == {
        "indexes.block1_layer1": (5,),
        "indexes.block1_layer2": (2,),
    }
    assert not list(afs.parameters())


def test_more_channels_than_the_level_has_are_refused():
    with pytest.raises(UserError, match="block1_layer2 keeps 9 channels, but the level has 8"):
        AFS([Block("block1", 8, (Selection(COARSE, 9),))])

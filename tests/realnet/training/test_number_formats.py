"""What chooses and measures computes in float32, also where the networks train in 16 bits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from realnet import config as configs
from realnet.config import RealNetConfig
from realnet.data.registry import open_dataset
from realnet.models.realnet import RealNet
from realnet.runtime.distributed import join_world
from realnet.training import detector_task
from realnet.training.detector_data import detector_data
from realnet.training.detector_task import DetectorTask
from realnet.training.normal_statistics import NormalStatistics

SETTINGS = ["features.normalise=channel", "calibration.holdout_fraction=0.2", "afs.init_batches=1"]


def begun(precision: str, *settings: str) -> tuple[DetectorTask, dict]:
    """A task before its first step, and a batch for it."""
    config = configs.load(RealNetConfig, Path("experiments/tiny/realnet.yaml"), [*SETTINGS, *settings])
    with join_world("cpu", precision) as world:
        data = detector_data(open_dataset("tiny"), "weave", config)
        task = DetectorTask(config, data, world, best=Path("best.pth"))
        task.begin()
        return task, default_collate([task.train_set[0, index] for index in range(3)])


def test_afs_chooses_the_same_channels_by_float32_features(tiny, monkeypatch):
    dtypes, whole = set(), detector_task.afs_criteria

    def criteria(afs, anomalous, *rest, **options):
        dtypes.update(features.dtype for features in anomalous.values())
        return whole(afs, anomalous, *rest, **options)

    monkeypatch.setattr(detector_task, "afs_criteria", criteria)
    chosen = [dict(begun(name)[0].model.afs.indexes.named_buffers()) for name in ("fp32", "bf16")]
    assert all(torch.equal(value, chosen[1][key]) for key, value in chosen[0].items())
    assert dtypes == {torch.float32}


def test_statistics_are_fitted_in_float32_also_in_a_run_that_goes_on(tiny, monkeypatch):
    is_autocast, whole = [], NormalStatistics.fit
    monkeypatch.setattr(
        NormalStatistics,
        "fit",
        lambda *arguments: is_autocast.append(torch.is_autocast_enabled("cpu")) or whole(*arguments),
    )
    task, batch = begun("bf16")
    task.statistics = None  # as a run that goes on begins
    with task.world.precision.autocast():
        task.losses(batch)
    assert is_autocast == [False, False]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rrs_ranks_float32_residuals(tiny, monkeypatch, precision):
    task, batch = begun(precision, "features.normalise=none")
    found, whole = [], RealNet.detect
    monkeypatch.setattr(RealNet, "detect", lambda *arguments: found.append(whole(*arguments)) or found[-1])
    with task.world.precision.autocast():
        task.losses(batch)
    (detection,) = found
    for name, residual in detection.residuals.items():
        selected, own = detection.selected[name].float(), detection.reconstructed[name].float()
        assert residual.dtype == torch.float32 and torch.equal(residual, (selected - own).square())


def test_a_ranking_of_16_bits_has_no_more_ties_than_one_of_32(tiny, monkeypatch):
    task, _ = begun("fp32", "features.normalise=none")
    residual = torch.rand(2, 56, 5, 5)
    seen, own = [], F.batch_norm
    monkeypatch.setattr(F, "batch_norm", lambda x, *rest, **named: seen.append(x.dtype) or own(x, *rest, **named))
    task.model.rrs.train().rank(residual.bfloat16())
    task.model.rrs.eval().rank(residual.bfloat16())
    assert seen == [torch.float32] * 3

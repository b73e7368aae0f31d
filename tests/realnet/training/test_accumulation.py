"""k micro-batches make the step of one batch that is k times as large."""

from pathlib import Path

import pytest
import torch
from outcomes import FLAGS, assert_the_same, outcome

from realnet import config as configs
from realnet.config import RealNetConfig
from realnet.data.registry import open_dataset
from realnet.runtime.distributed import join_world
from realnet.training.detector_data import detector_data
from realnet.training.detector_task import DetectorTask


@pytest.mark.parametrize("kind", ["diffusion", "classifier"])
def test_micro_batches_train_the_network_of_the_whole_batch(tiny, run_script, kind):
    outcomes = []
    for batch_size, accumulation in ((6, 1), (2, 3)):
        batches = f"train.batch_size={batch_size}", f"train.accumulation={accumulation}", "train.num_steps=2"
        run_script(f"train_{kind}", *FLAGS, *(word for setting in batches for word in ("--set", setting)))
        outcomes.append(outcome(kind))
    assert_the_same(*outcomes, num_steps=2)


def test_the_detector_averages_micro_batches_but_for_their_batch_statistics(tiny):
    config = configs.load(RealNetConfig, Path("experiments/tiny/realnet.yaml"))
    with join_world("cpu") as world:
        data = detector_data(open_dataset("tiny"), "weave", config)
        task = DetectorTask(config, data, world, best=Path("best.pth"))
    items = [task.train_set[0, index] for index in range(6)]
    assert len({bool(item["has_anomaly"]) for item in items}) == 2
    for statistics_are_fixed in (True, False):
        task.model.rrs.bn_idx.train(not statistics_are_fixed)
        task.model.rrs.decoder1[2].train(not statistics_are_fixed)
        whole, parts = gradients(task, [items]), gradients(task, [items[:2], items[2:4], items[4:]])
        same = [torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(whole, parts, strict=True)]
        assert all(same) is statistics_are_fixed


def gradients(task: DetectorTask, micro_batches: list[list[dict]]) -> list[torch.Tensor]:
    for items in micro_batches:
        batch = torch.utils.data.default_collate(items)
        (task.losses(batch).sum() / len(micro_batches)).backward()
    found = [parameter.grad.clone() for parameter in task.parameters()]
    for parameter in task.parameters():
        parameter.grad = None
    return found

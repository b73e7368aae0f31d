"""What a training run leaves, and when two runs did the same."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from realnet.config import paths
from realnet.models import checkpoint
from realnet.models.checkpoint import Kind

LEARNING_RATE = 1e-3
FLAGS = ("--dataset", "tiny", "--no-resume", "--set", f"optimiser.learning_rate={LEARNING_RATE}")
FLAGS += ("--set", "runtime.precision=fp32")  # on a machine with GPUs, these tests run there


@dataclass(frozen=True)
class Outcome:
    losses: list[dict[str, float]]
    weights: dict[str, torch.Tensor]


def outcome(kind: Kind, *class_name: str) -> Outcome:
    """Of the run of the dataset ``tiny`` in the current folder."""
    lines = [json.loads(line) for line in _folder(kind, "log", *class_name).joinpath("metrics.jsonl").open()]
    losses = [{k: v for k, v in line.items() if k.startswith("loss")} for line in lines if "loss" in line]
    weights = checkpoint.load(_folder(kind, "checkpoints", *class_name) / paths.LAST, kind=kind).state_dict
    return Outcome(losses, {key: value.clone() for key, value in weights.items()})


def assert_the_same(one: Outcome, other: Outcome, *, num_steps: int) -> None:
    """The same loss curve, statistics and weights of runs with FLAGS, but for rounding.

    Adam moves a weight by about the learning rate however small its gradient is, and there are a few whose gradient is
    nothing but rounding: of constants that a norm takes away.
    """
    assert len(one.losses) == num_steps and one.weights.keys() == other.weights.keys()
    for a, b in zip(one.losses, other.losses, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    distances = []
    for key, value in one.weights.items():
        if value.is_floating_point() and "running" not in key:
            distances.append((value - other.weights[key]).abs().flatten())
        else:
            torch.testing.assert_close(value, other.weights[key], rtol=1e-2, atol=1e-3, msg=key)
    assert (torch.cat(distances) > 0.1 * LEARNING_RATE).double().mean() < 0.01


def _folder(kind: Kind, what: str, *class_name: str) -> Path:
    return paths.output("tiny", kind, what, *class_name)  # type: ignore[arg-type]  # kinds are stages here

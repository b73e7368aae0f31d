"""A run that is killed again and again ends with what an uninterrupted one leaves, bit for bit."""

import json
import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import mortal
import pytest
import spoil
import torch
from mortal import Fate

from realnet.models import checkpoint

SEED = random.SystemRandom().randrange(10**6)  # every failure names it; put it here to see the same kills again
TIMES = {"time", "images_per_second"}
SMALL = "--set image_size=16 --set model.channel_mult=[1] --set model.dropout=0.1"
CLASSIFIER = f"train_classifier {SMALL} --set train.checkpoint_interval_steps=1"
DIFFUSION = f"train_diffusion {SMALL} --set validation.respacing=ddim2"
DETECTOR = (
    "train_realnet --set 'blocks={one: {levels: {layer1: 16}}}' --set afs.init_batches=1 --set 'reconstruction="
    "{channel_mult: [1], num_res_blocks: 1, num_head_channels: 8}' --set calibration.num_anomalies=2"
)
RARELY = "--set train.num_steps=8 --set train.checkpoint_interval_steps=2"
ONCE = (
    ".json",
    ".json.part",
    ".checksums.json.part",
    ".npz",
    ".npz.part",
    "best.pth",
    "best.pth.part",
    "config.yaml",
    ".md",
    ".md.part",
)
"""Moments that may not come, or not again: of the index, the best detector, a life's beginning, its end (cards), and
the images' descriptions and scores, which are made once."""
UNLIKE = {"log.txt", ".checksums.json"}
"""Files of two runs that differ: they hold times."""
STATE = Path("experiments/tiny/classifier_checkpoints/ckpt_last.state.pth")


def plain(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a checkpoint, tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        yield name, value.numpy().tobytes()
    elif isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from plain(inner, f"{name}.{key}")
    else:
        yield name, value


def content(path: Path) -> Any:
    if path.suffix in {".pth", ".previous"}:
        return dict(plain(checkpoint.read(path)))
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return path.read_bytes()


def left_by_a_run() -> dict[str, Any]:
    """All files of the current workspace, but those with times."""
    files = [path for folder in ("experiments", "data") for path in Path(folder).rglob("*") if path.is_file()]
    return {f"{path}": content(path) for path in files if path.name not in UNLIKE and "tensorboard" not in path.parts}


class Life:
    """A command that is run in the current folder again and again, and once without interruption in a copy of it."""

    def __init__(self, command: str) -> None:
        self.command, self.random = (*shlex.split(command), "--dataset", "tiny"), random.Random(f"{SEED} {command}")
        whole = Path.cwd().with_name(f"{Path.cwd().name}_whole")
        shutil.copytree(".", whole)
        with chdir(whole):
            began = time.perf_counter()
            end = mortal.live(*self.command)
            self.seconds = time.perf_counter() - began
            assert end.code == 0, end.output
            self.whole = left_by_a_run()
        self.moments = list(dict.fromkeys(end.moments))

    def suffer(self, fate: Fate) -> str:
        """Be ended by a signal; return what was printed."""
        end = mortal.live(*self.command, fate=fate)
        expected = -signal.SIGKILL if fate.sent == signal.SIGKILL else 0
        assert end.code == expected, f"seed {SEED}, {fate}: {end.output}"
        if fate.sent != signal.SIGKILL:
            assert "run the same command again to continue" in end.output
        return end.output

    def end_well(self) -> None:
        """Run to the end, and compare."""
        end = mortal.live(*self.command)
        assert end.code == 0, f"seed {SEED}: {end.output}"
        found = left_by_a_run()
        assert found.keys() == self.whole.keys(), f"seed {SEED}"
        assert not [name for name, value in found.items() if value != self.whole[name]], f"seed {SEED}"


def test_kills_at_every_moment_of_a_save(tiny):
    life = Life(f"{CLASSIFIER} --set train.num_steps=14")
    moments = [moment for moment in life.moments if not moment.endswith(ONCE)]
    assert len(moments) == 10
    for moment in life.random.sample(moments, len(moments)):
        life.suffer(Fate(moment, life.random.choice([1, 2])))
    for moment in ("half of config.yaml", "half of .metrics.jsonl.part", "before metrics.jsonl"):
        life.suffer(Fate(moment))
    life.end_well()


def test_kills_in_the_last_save(tiny):
    life = Life(f"{CLASSIFIER} --set train.num_steps=1")
    for moment in ("before ckpt_last.pth", "half of .ckpt_last.state.pth.part", "after ckpt_last.state.pth"):
        life.suffer(Fate(moment))
    life.end_well()


@pytest.mark.parametrize(
    ("command", "first", "last"),
    [
        (f"{DIFFUSION} {RARELY}", ["half of .strengths#.png.part"], Fate("step", 1, signal.SIGTERM)),
        (
            f"{DETECTOR} {RARELY} --class_name weave",
            ["after ckpt_best.pth", "half of .ckpt_best.pth.part"],
            Fate("step", 1, signal.SIGINT),
        ),
        (
            "sample --num_samples 10 --set respacing=ddim2",
            ["half of .settings.yaml.part", "half of .#.jpg.part", "before manifest.csv"],
            Fate("before #.jpg", 1, signal.SIGINT),
        ),
    ],
    ids=["diffusion", "detector", "samples"],
)
def test_kills_at_random_moments_and_an_orderly_stop(tiny, command, first, last):
    spoil.diffusion()  # which samples need, and training replaces
    life = Life(command)
    others = [moment for moment in life.moments if moment not in first and not moment.endswith(ONCE)]
    for moment in [*first, life.random.choice(others)]:
        life.suffer(Fate(moment))
    life.suffer(last)
    life.end_well()


def test_kills_at_any_time(tiny):
    life = Life(f"{CLASSIFIER} --set train.num_steps=8")
    for _ in range(3):
        process = mortal.start(*life.command)
        time.sleep(life.random.uniform(0, life.seconds))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        mortal.end(process)
    life.end_well()


def test_a_truncated_state_and_a_full_disk(tiny):
    life = Life(f"{CLASSIFIER} --set train.num_steps=5")
    life.suffer(Fate("after ckpt_last.state.pth", 2))
    spoil.cut(STATE)
    assert "falling back to the previous state" in life.suffer(Fate("before ckpt_last.state.pth"))
    assert "falling back to the previous state" in life.suffer(Fate("after ckpt_last.state.pth"))
    before = left_by_a_run()
    end = mortal.live(*life.command, max_bytes=2 * 10**5)
    assert end.code == 2 and "could not write" in end.output and "free some disk space" in end.output
    assert {n: v for n, v in left_by_a_run().items() if ".pth" in n} == {n: v for n, v in before.items() if ".pth" in n}
    life.end_well()


def test_a_stop_ends_the_command_not_only_the_class_at_hand(tiny):
    command = [*shlex.split(DETECTOR), "--dataset", "tiny", "--set", "train.num_steps=1"]
    end = mortal.live(*command, fate=Fate("step", 1, signal.SIGTERM))
    assert (
        end.code == 0 and "run the same command again to continue" in end.output and "widget detector" not in end.output
    )
    assert not Path("experiments/tiny/realnet_checkpoints/widget").exists()

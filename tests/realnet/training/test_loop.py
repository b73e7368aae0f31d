"""What can end a training early, and what is there then; test_survival.py has kills."""

import json
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from realnet import Detector
from realnet.data.cache import ImageCache
from realnet.data.registry import open_dataset
from realnet.detection.calibration import calibrate
from realnet.detection.examples import draw_examples
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.training import completion, detector_task, diffusion_task
from realnet.training.detector_data import detector_data
from realnet.training.state import path_of

DIFFUSION = Path("experiments/tiny/diffusion_checkpoints/ckpt_last.pth")
DETECTOR = Path("experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth")
TRAIN_DIFFUSION = ("train_diffusion", "--dataset", "tiny")
TRAIN_DETECTOR = ("train_realnet", "--dataset", "tiny", "--class_name", "weave")


@pytest.fixture
def terminated(monkeypatch) -> Callable[[Any, str], list]:
    """Have SIGTERM come, once, as a function of a module begins."""

    def terminate(module: Any, name: str) -> list:
        calls, whole = [], getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if not calls:
                os.kill(os.getpid(), signal.SIGTERM)
            calls.append(name)
            return whole(*arguments, **named)

        monkeypatch.setattr(module, name, call)
        return calls

    return terminate


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in checkpoint.read(path)["state_dict"].items()}


def metrics(stage: str) -> list[tuple[int, list[str]]]:
    lines = Path(f"experiments/tiny/{stage}_log/metrics.jsonl").read_text().splitlines()
    return [(line["step"], sorted(line)) for line in map(json.loads, lines)]


@pytest.mark.parametrize("how", ["failure", "signal"])
def test_a_validation_that_is_cut_short_costs_no_step_and_comes_again(tiny, run_script, monkeypatch, terminated, how):
    run_script(*TRAIN_DIFFUSION)
    whole, lines = weights(DIFFUSION), metrics("diffusion")
    if how == "signal":
        terminated(diffusion_task, "check_health")
        printed = run_script(*TRAIN_DIFFUSION, "--no-resume")
        assert "stopped after step 3 of 4; run the same command again to continue" in printed
    else:
        with monkeypatch.context() as patched, pytest.raises(TypeError):
            patched.setattr(diffusion_task, "check_health", None)
            run_script(*TRAIN_DIFFUSION, "--no-resume")
        assert "Traceback" in Path("experiments/tiny/diffusion_log/log.txt").read_text()
    assert checkpoint.read(path_of(DIFFUSION))["step"] == 3
    run_script(*TRAIN_DIFFUSION)
    assert metrics("diffusion") == lines
    assert [entry["step"] for entry in checkpoint.read(DIFFUSION)["facts"]["health"]] == [3, 4]
    for key, value in weights(DIFFUSION).items():
        assert torch.equal(value, whole[key]), key


def test_a_signal_is_heeded_while_features_are_selected_and_in_the_calibration(tiny, run_script, terminated):
    calls = terminated(detector_task, "afs_criteria")
    assert "stopped before the first step" in run_script(*TRAIN_DETECTOR)
    assert calls == ["afs_criteria"] and not DETECTOR.parent.exists()
    terminated(completion, "calibrate")
    assert "stopped after step 4 of 4; run the same command again to continue" in run_script(*TRAIN_DETECTOR)
    assert "calibration" not in checkpoint.read(DETECTOR)["facts"]
    run_script(*TRAIN_DETECTOR)
    assert checkpoint.read(DETECTOR)["facts"]["calibration"]
    log = Path("experiments/tiny/realnet_log/weave/log.txt").read_text()
    assert log.count("detector: calibrating ckpt_last.pth") == 2 and log.count("stopped after") == 1


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:999])])
def test_weights_that_are_lost_come_back_from_the_state(tiny, run_script, lose):
    run_script(*TRAIN_DETECTOR)
    before = weights(DETECTOR)
    lose(DETECTOR)
    assert "was lost or damaged" in run_script(*TRAIN_DETECTOR)
    after = weights(DETECTOR)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert checkpoint.read(DETECTOR)["facts"]["calibration"]


@pytest.mark.parametrize("interval", [1, 10])
def test_a_training_that_diverges_ends_and_saves_nothing(tiny, run_script, interval):
    rate = ("--set", "optimiser.learning_rate=1e30", "--set", "train.checkpoint_interval_steps=2")
    with pytest.raises(UserError, match=r"diverged: at step 2 (.|\n)*learning_rate \(it is 1e\+30\)"):
        run_script("train_classifier", "--dataset", "tiny", *rate, "--set", f"train.log_interval_steps={interval}")
    assert not list(Path("experiments/tiny/classifier_checkpoints").glob("*.pth"))
    assert "diverged" in Path("experiments/tiny/classifier_log/log.txt").read_text()


def test_of_equals_the_last_is_best_and_each_file_is_calibrated_with_what_it_stores(tiny, run_script, monkeypatch):
    monkeypatch.setattr(detector_task, "published_score", lambda _: 0.5)
    pools = [f"evaluation.score_pool={pool}" for pool in (2, 4)]
    run_script(*TRAIN_DETECTOR, "--set", pools[0], "--set", "train.num_steps=4")
    monkeypatch.setattr(detector_task, "published_score", lambda _: 0.4)  # the best file stays
    run_script(*TRAIN_DETECTOR, "--set", pools[1], "--set", "train.num_steps=6")
    for path, step, pool in ((DETECTOR, 6, 4), (DETECTOR.with_name("ckpt_best.pth"), 4, 2)):
        detector = Detector.load(path, device="cpu")
        assert (detector.facts["step"], detector.config.evaluation.score_pool) == (step, pool)
        data = detector_data(open_dataset("tiny"), "weave", detector.config)
        examples = draw_examples(data.train, data.image_root, data.synthesizer, detector.config)
        world = World(0, 1, detector.precision)
        again = calibrate(detector.model, examples, config=detector.config, world=world, held_out=False)
        drawn, stored = asdict(again), asdict(detector.calibration)
        assert drawn.pop("note") == stored.pop("note") == ""
        assert drawn == pytest.approx(stored, rel=1e-4)


def test_the_others_wait_for_a_calibration_however_long_it_takes(tiny, run_script, monkeypatch):
    told = []

    def tells(module, name, word):
        call = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *values: told.append(word) or call(*values))

    tells(detector_task, "completed", "calibrated")
    tells(distributed, "meet", "met")
    tells(distributed, "any_process", "sent a message, which times out")
    run_script(*TRAIN_DETECTOR, "--set", "train.num_steps=1")
    after = [word for word in told[told.index("calibrated") :] if word != "calibrated"]
    assert after[0] == "met"


@pytest.mark.parametrize(("num_workers", "fatal"), [(0, 6 + 11), (1, 11)])
def test_an_image_that_becomes_unreadable_costs_no_step(tiny, run_script, monkeypatch, num_workers, fatal):
    """The fourth step reads it; AFS has read six images, in the same process where there are no workers."""
    reads, whole = [], ImageCache.__getitem__

    def read(images, index):
        reads.append(index)
        if len(reads) == fatal:
            raise UserError("007.png is truncated")
        return whole(images, index)

    command = (*TRAIN_DETECTOR, "--set", f"runtime.num_workers={num_workers}")
    with monkeypatch.context() as patched, pytest.raises(UserError) as end:
        patched.setattr(ImageCache, "__getitem__", read)
        run_script(*command)
    traceback.clear_frames(end.tb)  # as a command does; the garbage collector would wait for the worker
    told = "007.png is truncated; the saved state is of step 3, and the same command continues"
    assert str(end.value) == told and checkpoint.read(path_of(DETECTOR))["step"] == 3
    assert "step 3 of 4" in run_script(*command)


def test_a_validation_that_fails_costs_no_step(tiny, run_script, monkeypatch):
    calls, whole = [], detector_task.score_split

    def score_split(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise UserError("a test image is gone")
        return whole(*arguments, **named)

    monkeypatch.setattr(detector_task, "score_split", score_split)
    with pytest.raises(UserError, match="a test image is gone"):
        run_script(*TRAIN_DETECTOR, "--set", "train.num_steps=6")
    assert checkpoint.read(path_of(DETECTOR))["step"] == 4
    assert "step 4 of 6" in run_script(*TRAIN_DETECTOR, "--set", "train.num_steps=6") and len(calls) == 4

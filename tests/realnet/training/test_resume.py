"""A run in parts ends with the weights of a run in one, bit for bit; test_survival.py has kills."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from realnet.config import OptimiserConfig, RealNetConfig, load, paths
from realnet.data.images import write_image
from realnet.data.registry import open_dataset
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.runtime.lock import locked
from realnet.runtime.precision import Precision
from realnet.training import state
from realnet.training.detector_data import detector_data
from realnet.training.optimisation import Optimisation

STATES = {
    "train_diffusion": "experiments/tiny/diffusion_checkpoints/ckpt_last.state.pth",
    "train_classifier": "experiments/tiny/classifier_checkpoints/ckpt_last.state.pth",
    "train_realnet": "experiments/tiny/realnet_checkpoints/weave/ckpt_last.state.pth",
}


def flags(script: str) -> list[str]:
    return ["--dataset", "tiny", *(["--class_name", "weave"] if script == "train_realnet" else [])]


def tensors(value, prefix=""):
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {k: v for key, inner in items for k, v in tensors(inner, f"{prefix}.{key}").items()}


@pytest.mark.parametrize("script", STATES)
def test_a_run_in_two_parts_equals_a_run_in_one(tiny, run_script, script):
    run_script(script, *flags(script), "--set", "train.num_steps=4", "--set", "optimiser.weight_decay=0.01")
    whole = tensors(checkpoint.read(tiny / STATES[script]))
    whole = {key: value.clone() for key, value in whole.items()}
    settings = ["--set", "optimiser.weight_decay=0.01"]
    run_script(script, *flags(script), *settings, "--set", "train.num_steps=2", "--no-resume")
    run_script(script, *flags(script), *settings, "--set", "train.num_steps=4")
    parts = tensors(checkpoint.read(tiny / STATES[script]))
    assert whole.keys() == parts.keys()
    assert len(whole) > 20
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


def test_a_run_anew_leaves_no_best_checkpoint_of_the_one_before(tiny, run_script):
    best = tiny / "experiments/tiny/realnet_checkpoints/weave/ckpt_best.pth"
    run_script("train_realnet", *flags("train_realnet"))
    assert best.is_file()
    run_script("train_realnet", *flags("train_realnet"), "--no-resume", "--set", "train.evaluation=false")
    assert not best.exists()


def test_other_settings_are_refused_and_listed(tiny, run_script):
    run_script("train_classifier", "--dataset", "tiny", "--set", "train.num_steps=1")
    with pytest.raises(UserError, match=r"optimiser.learning_rate: 0.0001 then, 0.5 now"):
        run_script("train_classifier", "--dataset", "tiny", "--set", "optimiser.learning_rate=0.5")
    with pytest.raises(UserError, match=r"images a step .*train.batch_size.*processes\): 4 then, 2 now"):
        run_script("train_classifier", "--dataset", "tiny", "--set", "train.batch_size=2")


def test_a_step_may_be_cut_otherwise_into_micro_batches_and_processes(tiny, run_script):
    command = ("train_classifier", "--dataset", "tiny", "--set")
    run_script(*command, "train.num_steps=1")
    halves = ("train.num_steps=2", "--set", "train.batch_size=2", "--set", "train.accumulation=2")
    assert "weights" in run_script(*command, *halves)
    assert checkpoint.read(tiny / STATES["train_classifier"])["step"] == 2


def test_a_cosine_schedule_keeps_its_length(tiny, run_script):
    cosine = ("train_classifier", "--dataset", "tiny", "--set", "optimiser.schedule=cosine", "--set")
    run_script(*cosine, "train.num_steps=2")
    with pytest.raises(UserError, match=r"steps in all .*: 2 then, 3 now"):
        run_script(*cosine, "train.num_steps=3")


def test_other_classes_images_or_backbones_are_another_run(tiny, run_script):
    for script in ("train_classifier", "train_realnet"):
        run_script(script, *flags(script), "--set", "train.num_steps=1")
    model = timm.create_model("test_resnet", features_only=True)
    torch.save(model.state_dict(), "other.pth")
    with pytest.raises(UserError, match="backbone's weights"):
        run_script("train_realnet", *flags("train_realnet"), "--set", "backbone.weights=other.pth")
    index = tiny / "data/tiny/samples/train_weave.json"
    index.write_text(index.read_text().replace("001.png", "000.png"))
    for script in ("train_classifier", "train_realnet"):
        with pytest.raises(UserError, match=r"training images: \d+ \(digest .*\) then, \d+ \(digest .*\) now"):
            run_script(script, *flags(script))
    (tiny / "data/tiny/images/weave").rename(tiny / "data/tiny/images/yarn")
    with pytest.raises(UserError, match="classes: weave, widget then, widget, yarn now"):
        run_script("train_classifier", "--dataset", "tiny")


def test_other_pictures_under_the_same_names_are_another_run(tiny, run_script):
    sdas = paths.sdas("tiny", "weave") / "00000.png"
    write_image(sdas, np.zeros((32, 32, 3), np.uint8))
    command = ("train_realnet", *flags("train_realnet"), "--set", "anomalies.types={sdas: 1.0}", "--set")
    run_script(*command, "train.num_steps=1")
    stored = tiny / STATES["train_realnet"]
    write_image(sdas, np.full((32, 32, 3), 9, np.uint8))
    with pytest.raises(UserError, match=r"contents of the anomaly sources: \w{32} then, \w{32} now$"):
        run_script(*command, "train.num_steps=2")
    write_image(sdas, np.zeros((32, 32, 3), np.uint8))
    image = tiny / "data/tiny/images/weave/train/good/000.png"
    shutil.copy(image.with_name("001.png"), image)
    with pytest.raises(UserError, match=r"contents of the training images: \w{32} then, \w{32} now$"):
        run_script(*command, "train.num_steps=2", "--dry-run")
    values = checkpoint.read(stored)  # as version 1.0 wrote it
    values["identity"] = {key: value for key, value in values["identity"].items() if key not in state.NEW_NAMES}
    checkpoint.write(stored, values)
    assert "at step 1" in run_script(*command, "train.num_steps=2", "--dry-run")


@pytest.mark.parametrize("normalise", ["none", "position"])
def test_held_out_images_are_of_the_run_where_they_enter_the_statistics(tiny, normalise):
    settings = (f"features.normalise={normalise}", "features.folds=2", "calibration.holdout_fraction=0.2")
    config = load(RealNetConfig, Path("experiments/tiny/realnet.yaml"), settings)
    data = detector_data(open_dataset("tiny"), "weave", config)
    before = data.subject(config, "")
    shutil.copy(data.image_root / data.train[0].filename, data.image_root / data.held_out[0].filename)
    now = detector_data(open_dataset("tiny"), "weave", config).subject(config, "")
    changed = {name for name in {**before, **now} if before.get(name) != now.get(name)}
    assert changed == (set() if normalise == "none" else {state.HELD_OUT_CONTENTS})
    assert changed <= state.NEW_NAMES


def test_another_rule_for_the_foreground_is_another_run(tiny):
    config, file = load(RealNetConfig, Path("experiments/tiny/realnet.yaml")), Path("experiments/tiny/dataset.yaml")
    before = detector_data(open_dataset("tiny"), "weave", config).subject(config, "")
    file.write_text(file.read_text().replace("full", "{polarity: dark}"))
    now = detector_data(open_dataset("tiny"), "weave", config).subject(config, "")
    changed = {name for name in {**before, **now} if before.get(name) != now.get(name)}
    assert changed == {state.FOREGROUND} and changed <= state.NEW_NAMES


def test_a_scaler_starts_anew_where_the_part_before_had_none():
    cpu = torch.device("cpu")
    parameters, config = [torch.ones(2, requires_grad=True)], OptimiserConfig()
    before = Optimisation(parameters, config, num_steps=2, precision=Precision(torch.bfloat16, cpu))
    after = Optimisation(parameters, config, num_steps=2, precision=Precision(torch.float16, cpu))
    after.load_state_dict(before.state_dict())
    assert after.scaler.is_enabled() and after.scaler.get_scale() > 1


def test_a_truncated_state_falls_back_to_the_one_before(tiny, run_script, caplog):
    arguments = ["train_classifier", "--dataset", "tiny", "--set", "train.checkpoint_interval_steps=1"]
    run_script(*arguments)
    path = tiny / STATES["train_classifier"]
    identity = checkpoint.read(path)["identity"]
    path.write_bytes(path.read_bytes()[:1000])
    stored = state.load(path, identity, {})
    assert stored is not None and stored["step"] == 2
    assert "falling back" in caplog.text


def test_what_starts_anew_forgets_the_states_of_the_run_before(tiny, run_script, monkeypatch):
    arguments = ["train_classifier", "--dataset", "tiny", "--set", "train.checkpoint_interval_steps=1"]
    run_script(*arguments)
    path = tiny / STATES["train_classifier"]
    assert checkpoint.previous(path).is_file()
    monkeypatch.setattr(Optimisation, "step", None)  # as a kill in the first step
    with pytest.raises(TypeError):
        run_script(*arguments, "--no-resume")
    assert not path.exists() and not checkpoint.previous(path).exists()


def test_a_run_goes_on_with_the_images_that_it_began_with(tiny, run_script):
    assert not (tiny / "data/tiny/samples").exists()
    run_script("train_classifier", "--dataset", "tiny", "--set", "train.num_steps=1")
    index = open_dataset("tiny").index("weave")
    shutil.copy(tiny / "data/tiny/images/weave/train/good/000.png", tiny / "data/tiny/images/weave/train/good/new.png")
    assert open_dataset("tiny").index("weave") == index


def test_another_mix_of_anomalies_is_another_run(tiny, run_script):
    """A name that one mix lacks does not stand for the published share."""
    command = ("train_realnet", "--dataset", "tiny", "--class_name", "weave", "--set", "train.num_steps=2")
    run_script(*command, "--set", "anomalies.types={self: 1.0}")
    with pytest.raises(UserError, match=r"anomalies\.types\.normal: None then, 0\.5 now"):
        run_script(*command, "--set", "anomalies.types={self: 1.0, normal: 0.5}")


def test_two_runs_of_one_class_do_not_write_into_each_others_files(tiny, run_script):
    says, folder = f"belongs to another run: process {os.getpid()} on", tiny / "experiments/tiny/classifier_checkpoints"
    with locked(folder), pytest.raises(UserError, match=says):
        run_script("train_classifier", "--dataset", "tiny")
    assert not (tiny / "experiments/tiny/classifier_log").exists()
    assert "weights" in run_script("train_classifier", "--dataset", "tiny", "--set", "train.num_steps=1")

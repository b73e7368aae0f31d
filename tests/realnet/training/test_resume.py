"""A run in parts ends with the weights of a run in one, bit for bit; test_survival.py has kills."""

import shutil

import pytest
import torch

from realnet import checkpoint
from realnet.data.registry import open_dataset
from realnet.errors import UserError
from realnet.training import state
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


def test_a_truncated_state_falls_back_to_the_one_before(tiny, run_script, caplog):
    from realnet.config import ClassifierConfig, load

    arguments = ["train_classifier", "--dataset", "tiny", "--set", "train.checkpoint_interval_steps=1"]
    run_script(*arguments)
    path = tiny / STATES["train_classifier"]
    path.write_bytes(path.read_bytes()[:1000])
    config = load(ClassifierConfig, tiny / "experiments/tiny/classifier.yaml")
    stored = state.load(path, config)
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

"""The commands as users give them, plainly; test_launching.py has the launchers."""

import csv
import json

import numpy as np
import pytest
import spoil
import torch
from conftest import load_script

from realnet.data.images import read_image
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.sdas import sampler

STAGES = ("train_diffusion", "train_classifier", "sample", "train_realnet")


def test_all_stages_run_and_leave_what_they_promise(tiny, run_script):
    assert "sample.py --dataset tiny" in run_script("train_diffusion", "--dataset", "tiny")
    assert "sample.py" in run_script("train_classifier", "--dataset", "tiny")
    run_script("sample", "--dataset", "tiny", "--strength", "0.1", "0.2")
    run_script("train_realnet", "--dataset", "tiny", "--class_name", "weave", "--set", "anomalies.types.sdas=0.5")
    weights = checkpoint.load(tiny / "experiments/tiny/diffusion_checkpoints/ckpt_last.pth", kind="diffusion")
    assert weights.classes == ("weave", "widget") and weights.facts["step"] == 4
    for class_name in ("weave", "widget"):
        folder = tiny / "data/tiny/sdas" / class_name
        rows = list(csv.DictReader((folder / "manifest.csv").open()))
        assert [row["file"] for row in rows] == ["00000.jpg", "00001.jpg", "00002.jpg"]
        assert all(0.1 <= float(row["strength"]) <= 0.2 for row in rows)
        assert read_image(folder / "00001.jpg").shape == (32, 32, 3)
    detector = checkpoint.load(tiny / "experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth", kind="realnet")
    assert not any(key.startswith("backbone.") for key in detector.state_dict)
    assert (tiny / "experiments/tiny/realnet_checkpoints/weave/ckpt_best.pth").is_file()
    lines = [json.loads(line) for line in (tiny / "experiments/tiny/realnet_log/weave/metrics.jsonl").open()]
    assert {line["step"] for line in lines} == {1, 2, 3, 4}
    assert any("test/image_auroc" in line for line in lines)


def test_sampled_images_do_not_depend_on_the_batch_or_on_what_was_there(tiny, run_script):
    run_script("train_diffusion", "--dataset", "tiny", "--set", "train.num_steps=1")
    arguments = ("sample", "--dataset", "tiny", "--classes", "weave", "--format", "png", "--num_samples", "5")
    run_script(*arguments, "--output", "a")
    run_script(*arguments, "--output", "b", "--set", "batch_size=1")
    for index in range(5):
        a, b = (read_image(tiny / folder / f"weave/{index:05d}.png") for folder in ("a", "b"))
        np.testing.assert_array_equal(a, b)
    (tiny / "a/weave/00003.png").unlink()
    before = (tiny / "a/weave/00002.png").stat().st_mtime_ns
    assert "1 new images of 5" in run_script(*arguments, "--output", "a")
    assert (tiny / "a/weave/00002.png").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="--no-resume"):
        run_script(*arguments, "--output", "a", "--strength", "0", "0")
    assert "0 new images of 2" in run_script(*arguments, "--output", "a", "--num_samples", "2")
    assert len((tiny / "a/weave/manifest.csv").read_text().splitlines()) == 1 + 2
    with pytest.raises(UserError, match="other settings"):
        run_script(*arguments, "--output", "a", "--set", "runtime.precision=bf16")
    run_script("train_diffusion", "--dataset", "tiny", "--no-resume", "--seed", "5", "--set", "train.num_steps=1")
    with pytest.raises(UserError, match="other settings"):  # of another model at the same path and step
        run_script(*arguments, "--output", "a")


def test_a_diffusion_model_that_diverged_makes_no_images(tiny, run_script):
    spoil.diffusion()
    stored = checkpoint.read(spoil.DIFFUSION)
    stored["state_dict"]["out.2.bias"].fill_(torch.nan)
    checkpoint.write(spoil.DIFFUSION, stored)
    with pytest.raises(UserError, match="the diffusion model gives NaN: its weights diverged"):
        run_script("sample", "--dataset", "tiny", "--no-guidance", "--device", "cpu")
    assert not list(tiny.glob("data/tiny/sdas/*/*.jpg"))


def test_a_sampling_run_that_goes_on_in_16_bits_makes_the_same_files(tiny, run_script, monkeypatch):
    run_script("train_diffusion", "--dataset", "tiny", "--set", "train.num_steps=1")
    sizes = []
    whole = sampler.sample_batch
    monkeypatch.setattr(
        sampler, "sample_batch", lambda s, batch, *rest: sizes.append(len(batch)) or whole(s, batch, *rest)
    )
    arguments = ("sample", "--dataset", "tiny", "--classes", "weave", "--set", "runtime.precision=bf16")
    run_script(*arguments)
    (tiny / "data/tiny/sdas/weave/00001.jpg").unlink()
    run_script(*arguments)
    assert sizes == [2, 2, 2]  # a kernel for other sizes may round otherwise


@pytest.mark.parametrize("script", [*STAGES, "evaluation_realnet", "predict_realnet", "synthesize", "prepare_data"])
def test_help_names_the_flags(script, capsys):
    with pytest.raises(SystemExit) as end:
        load_script(script).main(["--help"])
    assert end.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["train_diffusion", "train_classifier", "train_realnet"])
def test_dry_run_prints_the_plan_and_touches_nothing(tiny, run_script, script):
    before = sorted(tiny.rglob("*"))
    printed = run_script(script, "--dataset", "tiny", "--dry-run")
    assert "memory" in printed and "image_size" in printed
    assert sorted(tiny.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "more"),
    [
        (["train_diffusion"], "pretrained=absent.pt"),
        (["train_classifier"], "pretrained=absent.pt"),
        (["train_realnet", "--class_name", "weave"], "seed=100"),
    ],
)
def test_a_dry_run_says_where_a_run_goes_on(tiny, run_script, script, more):
    command = (*script, "--dataset", "tiny")
    run_script(*command, "--set", "train.num_steps=2")
    assert "begins at step 2" in " ".join(run_script(*command, "--dry-run", "--set", more).split())
    assert "begins at step 0" in " ".join(run_script(*command, "--dry-run", "--no-resume").split())
    with pytest.raises(UserError, match=r"belongs to another run(.|\n)*optimiser.learning_rate: 0.0001 then, 0.5 now"):
        run_script(*command, "--dry-run", "--set", "optimiser.learning_rate=0.5")


def test_a_dry_run_of_sampling_looks_at_what_is_there(tiny, run_script):
    run_script("train_diffusion", "--dataset", "tiny", "--set", "train.num_steps=1")
    command = ("sample", "--dataset", "tiny", "--classes", "weave")
    run_script(*command)
    (tiny / "data/tiny/sdas/weave/00001.jpg").unlink()
    assert "new 1 of these" in " ".join(run_script(*command, "--dry-run").split())
    with pytest.raises(UserError, match="weave holds images made with other settings"):
        run_script(*command, "--dry-run", "--strength", "0", "0")
    assert "new 3 of these" in " ".join(
        run_script(*command, "--dry-run", "--strength", "0", "0", "--no-resume").split()
    )
    half = ("--device", "cuda", "--set", "runtime.precision=fp16", "--output", "other")
    assert "on cuda in fp16" in run_script(*command, "--dry-run", *half)


def test_a_dry_run_counts_the_processes_and_one_prints(tiny, run_script, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    command = ("train_diffusion", "--dataset", "tiny", "--dry-run", "--set", "train.num_steps=null")
    epochs = ("--set", "train.num_epochs=5")
    printed = " ".join(run_script(*command, *epochs).split())
    assert "batch 12 a step, by 3 processes steps 5" in printed
    monkeypatch.setenv("RANK", "1")
    assert run_script(*command, *epochs) == ""
    with pytest.raises(UserError, match="too few images for a batch of 24"):
        run_script(*command, "--set", "train.batch_size=4")


@pytest.mark.parametrize("flag", ["--local_rank=0", "--local-rank=0"])
@pytest.mark.parametrize("script", [*STAGES, "evaluation_realnet"])
def test_what_a_launcher_gives_to_its_processes_is_accepted(script, flag):
    with pytest.raises(UserError, match="no dataset 'tinny'"):  # test_launching.py has the launchers
        load_script(script).main([flag, "--dataset", "tinny"])


def test_the_loaded_detector_scores_as_the_trained_one(tiny, run_script):
    from realnet.detection.detector import Detector

    run_script("train_realnet", "--dataset", "tiny", "--class_name", "weave")
    detector = Detector.load(tiny / "experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth", device="cpu")
    prediction = detector.predict(tiny / "data/tiny/images/weave/test/good/000.png")
    assert prediction.anomaly_map.shape == (32, 32) and 0 <= prediction.image_score <= 1
    assert torch.is_inference_mode_enabled() is False


def test_rectangular_images_pass_through_all_stages(tiny, run_script):
    size = ("--set", "image_size=[32, 64]")
    run_script("train_diffusion", "--dataset", "tiny", "--set", "train.num_steps=1", *size)
    run_script("train_classifier", "--dataset", "tiny", "--set", "train.num_steps=1", *size)
    run_script("sample", "--dataset", "tiny", "--classes", "weave", "--num_samples", "1")
    assert read_image(tiny / "data/tiny/sdas/weave/00000.jpg").shape == (32, 64, 3)
    sdas = ("--set", "anomalies.types={normal: 0.5, sdas: 0.5}")
    run_script(
        "train_realnet", "--dataset", "tiny", "--class_name", "weave", "--set", "train.num_steps=1", *size, *sdas
    )
    assert "AUROC" in run_script("evaluation_realnet", "--dataset", "tiny", "--class_name", "weave", *size)
    heatmap = read_image(tiny / "experiments/tiny/realnet_vis/weave/last/test/good/000.png")
    assert heatmap.shape[1] > heatmap.shape[0]

"""The gate of ``sample.py``, strengths by class, the preview, and ``train_diffusion.py --until ready``."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import spoil

from realnet.data.images import read_image, write_image
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.sdas import preview
from realnet.sdas.readiness import Figures, Health
from realnet.training import diffusion_task

READY, UNREADY = Figures(0.01, 0.05, 1.5), Figures(0.01, 0.05, 6.6)
SAMPLE = ("sample", "--dataset", "tiny", "--classes", "weave", "--num_samples", "1", "--no-guidance")
GATED = ("--set", "require_ready=true")
UNTIL = ("train_diffusion", "--dataset", "tiny", "--set", "train.num_steps=9", "--until")


def measured(*figures: Figures, schedule: str = "constant") -> None:
    """Leave a diffusion model of which so much was measured."""
    spoil.diffusion()
    stored = checkpoint.read(spoil.DIFFUSION)
    stored["facts"]["health"] = [{"step": 7, **vars(each)} for each in figures]
    stored["config"]["optimiser"]["schedule"] = schedule
    checkpoint.write(spoil.DIFFUSION, stored)


def strengths(class_name: str) -> list[float]:
    with Path(f"data/tiny/sdas/{class_name}/manifest.csv").open(newline="") as file:
        return [float(row["strength"]) for row in csv.DictReader(file)]


def test_a_model_that_is_not_ready_is_refused_unless_forced(tiny, run_script):
    measured(UNREADY)
    for more in ((), ("--dry-run",)):
        with pytest.raises(UserError) as refusal:
            run_script(*SAMPLE, *GATED, *more)
        for words in ("not ready", "6.6 times", "train_diffusion.py --dataset tiny --until ready", "--force"):
            assert words in str(refusal.value)
    assert not Path("data/tiny/sdas").exists()
    for way in ((*GATED, "--force"), ("--set", "require_ready=false")):
        assert "WARNING: the diffusion model is not ready" in run_script(*SAMPLE, *way)
    assert "require_ready" not in Path("data/tiny/sdas/weave/settings.yaml").read_text()


def test_a_model_that_is_ready_is_sampled(tiny, run_script):
    measured(READY)
    printed = run_script(*SAMPLE, *GATED)
    assert "weave: 1 new images of 1" in printed and "WARNING" not in printed


def test_a_model_without_a_record_is_sampled_with_a_warning(tiny, run_script):
    spoil.diffusion()  # as published ones
    printed = run_script(*SAMPLE, *GATED)
    assert "weave: 1 new images of 1" in printed and "WARNING: the diffusion model is not known" in printed


def test_the_refusal_of_a_model_names_what_its_training_takes(tiny, run_script):
    for figures, schedule, words, unsaid in (
        ((), "constant", "has not reached the first validation. Go on with its training", "--no-resume"),
        ((UNREADY,), "constant", "Train it on, with more train.num_steps", "--no-resume"),
        ((UNREADY,), "cosine", "start anew with more train.num_steps or train.num_epochs (--no-resume)", "Train it on"),
    ):
        measured(*figures, schedule=schedule)
        with pytest.raises(UserError) as refusal:
            run_script(*SAMPLE, *GATED)
        assert words in str(refusal.value) and unsaid not in str(refusal.value)


def test_a_preview_replaces_no_picture_of_another_maker(tiny, run_script):
    measured(UNREADY)
    write_image(Path("own/weave.png"), np.zeros((8, 8, 3), np.uint8))
    before = Path("own/weave.png").read_bytes()
    for command in (
        (*SAMPLE[:5], "--preview", "--dry-run"),
        (*SAMPLE[:5], "--preview"),
        ("prepare_data", "preview", "--dataset", "tiny", "--class_name", "weave"),
    ):
        with pytest.raises(UserError, match=r"own/weave\.png is not a sheet that a preview wrote"):
            run_script(*command, "--output", "own")
    assert Path("own/weave.png").read_bytes() == before


def test_training_ends_when_the_model_is_ready_and_can_go_on(tiny, run_script, monkeypatch, caplog):
    figures = iter([UNREADY, READY, READY, UNREADY])
    monkeypatch.setattr(diffusion_task, "check_health", lambda *_: Health(next(figures), {}))
    with caplog.at_level(logging.INFO, "realnet"):
        printed = run_script(*UNTIL, "ready") + caplog.text
    assert "ends after step 6 of at most 9" in printed
    stored = checkpoint.read(spoil.DIFFUSION)["facts"]
    assert stored["step"] == 6 and [entry["step"] for entry in stored["health"]] == [3, 6]
    before = spoil.DIFFUSION.stat().st_mtime_ns
    assert "already done" in run_script(*UNTIL, "ready") and spoil.DIFFUSION.stat().st_mtime_ns == before
    run_script(*UNTIL, "end")  # the configured length
    stored = checkpoint.read(spoil.DIFFUSION)["facts"]
    assert stored["step"] == 9 and [entry["step"] for entry in stored["health"]] == [3, 6, 9]
    lines = Path("experiments/tiny/diffusion_log/metrics.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, lines) if "health/sample_distance" in line] == [3, 6, 9]


def test_each_class_has_its_own_strengths(tiny, run_script):
    spoil.diffusion()
    own = ("--set", "strength={weave: [0.3, 0.4]}", "--set", "respacing=ddim2")
    command = ("sample", "--dataset", "tiny", "--num_samples", "2", "--no-guidance")
    run_script(*command, *own)
    assert all(0.3 <= s <= 0.4 for s in strengths("weave"))
    assert all(0.1 <= s <= 0.2 for s in strengths("widget"))
    same = ("--classes", "weave", "--strength", "0.3", "0.4")  # a folder does not know how its range was written
    assert "0 new images of 2" in run_script(*command, *own[2:], *same)
    with pytest.raises(UserError, match=r"strength: tiny has no class 'weav'; its classes: weave, widget"):
        run_script(*command, "--set", "strength={weav: [0.3, 0.4]}")
    for wrong, words in (
        ("{weave: [0.4, 0.3]}", "strength.weave: a range starts with its smaller number"),
        ("{weave: 0.3}", "strength.weave: takes keys and values"),
        ("{weave: {lo: 0.1}}", "strength.weave.lo: unknown key (value 0.1); did you mean strength.weave.low?"),
        ("{low: 0.1, hi: 0.2}", "strength"),
        ("[-0.1, 0.3]", "strength must be 0"),
        ("{weave: [-0.1, 0.3]}", "strength must be 0"),
        ("{}", "strength"),
        ("{weave: [0, 0.1, 0.2]}", "strength.weave"),
    ):
        with pytest.raises(UserError) as refusal:
            run_script(*command, "--set", f"strength={wrong}")
        assert words in str(refusal.value) and "pydantic" not in str(refusal.value)


def test_a_preview_draws_each_image_at_growing_strengths(tiny, run_script, monkeypatch):
    measured(UNREADY)
    drawn = []
    whole = preview.sample_batch

    def sample_batch(sampler, batch, *rest):
        drawn.extend(batch)
        return whole(sampler, batch, *rest)

    monkeypatch.setattr(preview, "sample_batch", sample_batch)
    monkeypatch.setattr(preview, "STRENGTHS", (0.0, 0.6))
    command = (*SAMPLE[:5], "--no-guidance", "--preview", "--set", "respacing=ddim2", "--set", "batch_size=6")
    assert "images 12 for each of weave" in " ".join(run_script(*command, "--dry-run").split())
    printed = run_script(*command, *GATED)  # it is what shows whether a model is of use
    path = Path("experiments/tiny/sample_vis/weave.png")
    assert f"preview    {path}" in printed and "WARNING" in printed and not Path("data/tiny/sdas").exists()
    assert [draw.strength for draw in drawn] == [0.0] * 6 + [0.6] * 6
    assert [draw.seed for draw in drawn[:6]] == [draw.seed for draw in drawn[6:]]
    assert len({draw.seed for draw in drawn}) == 6
    sheet = read_image(path)
    assert sheet.shape[0] > 2 * 96 and sheet.shape[1] > 6 * 96
    run_script(*command, "--output", "again")
    np.testing.assert_array_equal(read_image(Path("again/weave.png")), sheet)
    drawn.clear()
    run_script(*command, "--output", "again", "--set", "sampler=ddim")
    assert {draw.strength for draw in drawn} == {0.0, 0.06}

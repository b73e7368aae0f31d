"""--seeds: several detectors of a class that differ in the seed alone, side by side."""

import csv
import json
import re
import statistics
import zipfile
from pathlib import Path

import pytest
import tiny_detector
import torch
from conftest import load_script

from realnet.errors import UserError
from realnet.evaluation.results import read_class
from realnet.models import checkpoint

CHECKPOINTS, VIS = Path("experiments/tiny/realnet_checkpoints"), Path("experiments/tiny/realnet_vis")
TRAIN = ("--dataset", "tiny", "--device", "cpu", "--class_name", "weave", "--set", "train.num_steps=1")


def evaluate(*arguments: str) -> int:
    return load_script("evaluation_realnet").main(["--dataset", "tiny", "--device", "cpu", *arguments])


def aurocs(class_name: str, seeds: tuple[int, ...] = (0, 1, 2)) -> list[float]:
    found = [read_class(VIS / class_name / f"seed_{seed}").of("last") for seed in seeds]
    return [one.metrics["pixel_auroc"].value for one in found]


def in_percent(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"


@pytest.fixture
def three_seeds(tiny):
    """Both classes have detectors of the seeds 0, 1 and 2, and one has its own."""
    for seed in (0, 1, 2):
        tiny_detector.save("weave", seed=seed, of_seed=seed)
        tiny_detector.save("widget", seed=seed + 3, of_seed=seed)
    tiny_detector.save("weave", seed=7)


def test_each_seed_trains_a_detector_of_its_own_as_seed_alone_does(tiny, run_script):
    printed = run_script("train_realnet", *TRAIN, "--seeds", "0", "3")
    assert "next       python evaluation_realnet.py --dataset tiny --class_name weave --seeds 0 3" in printed
    assert not (CHECKPOINTS / "weave/ckpt_last.pth").exists() and not Path("experiments/tiny/realnet_log/3").exists()
    stored = {n: checkpoint.load(CHECKPOINTS / f"weave/seed_{n}/ckpt_last.pth", kind="realnet") for n in (0, 3)}
    assert [one.config["seed"] for one in stored.values()] == [0, 3]
    assert stored[0].facts["identity"] == stored[3].facts["identity"]
    assert {"contents of the training images", "foreground in dataset.yaml", "features.normalise"} <= set(
        stored[0].facts["identity"]
    )
    assert (CHECKPOINTS / "weave/seed_3/ckpt_best.pth").is_file()
    assert Path("experiments/tiny/realnet_log/weave/seed_3/metrics.jsonl").is_file()
    run_script("train_realnet", *TRAIN, "--seed", "3")
    alone = checkpoint.load(CHECKPOINTS / "weave/ckpt_last.pth", kind="realnet").state_dict
    assert all(torch.equal(alone[name], value) for name, value in stored[3].state_dict.items())
    assert any(not torch.equal(alone[name], value) for name, value in stored[0].state_dict.items())


def test_the_same_command_goes_on_with_each_seed(tiny, run_script):
    run_script("train_realnet", *TRAIN, "--seeds", "1")
    begins = " ".join(run_script("train_realnet", *TRAIN, "--seeds", "1", "2", "--dry-run").split())
    assert "weave, seed 1 (6 train, 5 test), weave, seed 2" in begins and "begins at step 1, at step 0" in begins
    before = (CHECKPOINTS / "weave/seed_1/ckpt_last.state.pth").stat().st_mtime_ns
    run_script("train_realnet", *TRAIN, "--seeds", "1", "2")
    assert (CHECKPOINTS / "weave/seed_1/ckpt_last.state.pth").stat().st_mtime_ns == before
    assert (CHECKPOINTS / "weave/seed_2/ckpt_last.pth").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0", "1", "0"], "--seeds 0 1 0 names a seed twice"),
        (["--seeds", "0", "-1"], "--seeds 0 -1: a seed is a number from 0 to"),
        (["--seeds", str(2**63)], "a seed is a number from 0 to"),
        (["--seeds", "0", "--set", "seed=4"], "--set seed and --seeds 0 both give the seed"),
    ],
)
def test_seeds_that_contradict_are_refused(tiny, flags, message):
    for script in ("train_realnet", "evaluation_realnet"):
        with pytest.raises(UserError, match=re.escape(message)):
            load_script(script).main(["--dataset", "tiny", *flags])


def test_seed_and_seeds_exclude_each_other_and_a_checkpoint_is_one(three_seeds, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate("--seed", "1", "--seeds", "1", "2")
    assert ended.value.code == 2 and "--seeds: not allowed with argument --seed" in capsys.readouterr().err
    own = str(CHECKPOINTS / "weave/seed_1/ckpt_last.pth")
    with pytest.raises(UserError, match="is one detector, --seeds names several"):
        evaluate("--class_name", "weave", "--checkpoint", own, "--seeds", "1")


def test_results_of_seeds_stand_side_by_side_with_mean_and_spread(three_seeds, capsys):
    assert evaluate("--seeds", "0", "1", "2") == 0
    printed = capsys.readouterr().out
    weave, widget = aurocs("weave"), aurocs("widget")
    means = [statistics.mean(pair) for pair in zip(weave, widget, strict=True)]
    expected = {"weave": weave, "widget": widget, "mean of 2 classes": means}
    for name, values in expected.items():
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{name}, mean ± spread of 3 seeds ")]
        assert re.split(r"\s{2,}", line)[2] == in_percent(values)
        assert re.search(rf"\n{name}, seed 1 +\d[^\n]* {100 * values[1]:.2f} ", printed)
    assert len({len(line) for line in printed.splitlines() if re.match(r"(weave|widget|mean).*\d\d  +\d", line)}) == 1
    assert "weave, seed 2, last: threshold 0.65 (calibrated)" in printed
    assert "experiments/tiny/realnet_vis/report_seeds.html (2 of 2 classes)" in printed
    stored = json.loads((VIS / "metrics_seeds.json").read_text())
    assert stored["separate"]["classes"]["weave"]["last"]["seeds"]["2"]["pixel_auroc"]["value"] == weave[2]
    spread = stored["separate"]["mean"]["last"]["over_seeds"]["pixel_auroc"]["spread"]
    assert spread == pytest.approx(statistics.stdev(means))
    rows = list(csv.DictReader((VIS / "metrics_seeds.csv").open()))
    assert [(row["class"], row["seed"]) for row in rows[:6]] == [
        *(("weave", seed) for seed in ("0", "1", "2", "mean", "spread")),
        ("widget", "0"),
    ]
    assert float(rows[4]["pixel_auroc"]) == pytest.approx(statistics.stdev(weave), abs=1e-6)
    page = (VIS / "report_seeds.html").read_text()
    assert in_percent(weave) in page and "<h2>widget, seed 2</h2>" in page
    assert 'href="weave/seed_1/report.html"' in page and (VIS / "weave/seed_1/report.html").is_file()
    assert not (VIS / "report.html").exists() and not (VIS / "weave/report.html").exists()


def test_cards_tell_the_spread_also_in_what_is_exported(three_seeds):
    evaluate("--class_name", "weave", "--seeds", "0", "1", "2")
    values = aurocs("weave")
    text = f"pixel_auroc {statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
    card = (CHECKPOINTS / "weave/seed_1/card.md").read_text()
    assert text in card and "of seeds 0, 1, 2" in card
    assert text in (VIS / "report_seeds.html").read_text()
    own = str(CHECKPOINTS / "weave/seed_1/ckpt_last.pth")
    load_script("export_realnet").main(["--detector", own, "--output", "one.realnet"])
    assert text in zipfile.ZipFile("one.realnet").read("card.md").decode()
    assert evaluate("--class_name", "weave") == 0
    assert "over seeds" not in (CHECKPOINTS / "weave/card.md").read_text()


def test_classes_and_seeds_evaluated_one_by_one_come_together(three_seeds, capsys):
    assert evaluate("--class_name", "weave", "--seeds", "0", "1", "2") == 0
    assert evaluate("--class_name", "widget", "--seeds", "0", "1", "2") == 0
    assert "(2 of 2 classes)" in capsys.readouterr().out
    assert json.loads((VIS / "metrics_seeds.json").read_text())["separate"]["classes"].keys() == {"weave", "widget"}
    assert evaluate("--class_name", "widget", "--seeds", "0") == 0
    printed = capsys.readouterr().out
    assert "widget: results of" in printed.replace(", seed 0", "") and "kept" in printed
    assert "\nwidget, seed 0 " in printed and "spread" not in printed


def test_a_seed_without_detector_is_left_out_and_named(three_seeds, capsys):
    assert evaluate("--class_name", "weave", "--seeds", "0", "1", "5") == 1
    printed = capsys.readouterr().out
    assert "weave, mean ± spread of 2 seeds" in printed
    command = r"python train_realnet\.py --dataset tiny --class_name weave --seeds 5\n"
    assert re.search(rf"left out\nweave, seed 5: .*weave/seed_5/ckpt_last.pth does not exist; .*{command}", printed)
    with pytest.raises(UserError, match="seed_5"):
        evaluate("--class_name", "weave", "--seeds", "5")


def test_detectors_that_differ_in_more_than_the_seed_have_no_spread(three_seeds, capsys):
    tiny_detector.save("weave", seed=1, of_seed=1, step=3)
    assert evaluate("--seeds", "0", "1", "2") == 1
    printed = capsys.readouterr().out
    why = "the detectors of seeds 0 and 1 differ in more than the seed (steps 4 and 3)"
    assert f"left out\nweave, seed 0; weave, seed 1; weave, seed 2: {why}" in printed
    assert "\nwidget, mean ± spread of 3 seeds" in printed and "weave, mean" not in printed


def change(path: Path, **facts: object) -> None:
    stored = checkpoint.read(path)
    checkpoint.write(path, {**stored, "facts": {**stored["facts"], **facts}})


def test_earlier_results_of_detectors_that_differ_in_more_have_no_spread_either(three_seeds, capsys):
    own = CHECKPOINTS / "weave/seed_1/ckpt_last.pth"
    change(own, identity={"contents of the anomaly sources": "others"})
    for seed in ("0", "1"):
        assert evaluate("--class_name", "weave", "--seeds", seed) == 0
    capsys.readouterr()
    assert evaluate("--class_name", "widget", "--seeds", "0", "1") == 0
    why = "seeds 0 and 1 differ in more than the seed (contents of the anomaly sources none and others)"
    over = json.loads((VIS / "metrics_seeds.json").read_text())["separate"]["classes"]["weave"]["last"]["over_seeds"]
    assert over["pixel_auroc"]["value"] is None and why in over["pixel_auroc"]["reason"]
    assert why in (VIS / "report_seeds.html").read_text()
    assert why in (CHECKPOINTS / "weave/seed_1/card.md").read_text()
    load_script("export_realnet").main(["--detector", str(own), "--output", "one.realnet"])
    assert why in zipfile.ZipFile("one.realnet").read("card.md").decode()


@pytest.mark.parametrize("differing", ["backbone", "identity"])
def test_best_checkpoints_are_compared_but_for_their_step(three_seeds, capsys, differing):
    for seed, step in ((0, 3), (1, 2)):
        tiny_detector.save("weave", "ckpt_best.pth", seed=seed, of_seed=seed, step=step)
    assert evaluate("--class_name", "weave", "--seeds", "0", "1") == 0
    best = CHECKPOINTS / "weave/seed_1/ckpt_best.pth"
    change(best, **{differing: {"features.normalise": "position", "checksum": "other"}})
    with pytest.raises(
        UserError, match=r"differ in more than the seed \((checksum of|features\.normalise none and pos)"
    ):
        evaluate("--class_name", "weave", "--seeds", "0", "1")


def test_a_seed_that_diverged_leaves_no_mean(three_seeds, capsys):
    tiny_detector.save("weave", diverged=True, of_seed=1)
    assert evaluate("--class_name", "weave", "--seeds", "0", "1", "2") == 0
    printed = capsys.readouterr().out
    assert re.search(r"\nweave, mean ± spread of 3 seeds( +–){7}\n", printed)
    assert "weave, mean ± spread of 3 seeds: " in printed and "not computed: seed 1: the detector gives NaN" in printed


def test_where_only_seeds_have_detectors_the_message_names_them(three_seeds):
    for script in ("predict_realnet", "export_realnet"):
        more = ["--input", "."] if script == "predict_realnet" else []
        with pytest.raises(UserError, match=r"detectors of seeds: --detector .*widget/seed_0/ckpt_last\.pth"):
            load_script(script).main(["--dataset", "tiny", "--class_name", "widget", *more])

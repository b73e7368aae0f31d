"""The installed command: its verbs are the scripts."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_script

from realnet import errors
from realnet.commands import cli, demo, program
from realnet.errors import VERBS, UserError, advice_on


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["realnet", *arguments])
        try:
            program.main()
        except SystemExit as end:
            printed = capsys.readouterr()
            return int(end.code or 0), printed.out + printed.err
        return 0, capsys.readouterr().out

    return call


def test_every_script_is_a_verb_and_both_call_the_same_main():
    assert set(VERBS) == {path.stem for path in ROOT.glob("*.py")}
    for script, verb in VERBS.items():
        assert load_script(script).main is program.module_of(verb).main


def test_the_verbs_are_listed_and_others_refused(call):
    code, printed = call()
    assert code == 0 and all(f"\n  {verb} " in printed for verb in (*VERBS.values(), "demo"))
    assert call("--version") == (0, "realnet 1.0.0\n")
    assert call("trian")[0] == 2 and "realnet has no verb 'trian'" in call("trian")[1]
    code, printed = call("train", "--help")
    assert code == 0 and printed.startswith("usage: realnet train [-h]")


def test_away_from_the_checkout_advice_names_the_verbs(monkeypatch):
    text = "make it with: python train_realnet.py --dataset toy, then python evaluation_realnet.py; or python other.py"
    assert str(UserError(text)) == text
    monkeypatch.setattr(errors, "_IS_CHECKOUT", False)
    assert str(UserError(text)) == (
        "make it with: realnet train --dataset toy, then realnet evaluate; or python other.py"
    )


def test_missing_display_libraries_have_two_repairs():
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    advice = advice_on(error)
    assert advice and "apt install libgl1" in advice and "pip install opencv-python-headless" in advice
    assert advice_on(ImportError("No module named 'cv3'")) is None


def test_another_working_folder_is_entered_and_flags_stay_relative_to_the_first(tmp_path, monkeypatch, call):
    home = tmp_path / "new/home"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_started_in", Path())
    monkeypatch.setenv("REALNET_HOME", str(home))
    seen = []
    monkeypatch.setattr(
        program.module_of("predict"), "main", lambda _: seen.append((Path.cwd(), cli.location("x.png")))
    )
    assert call("predict") == (0, "")
    assert seen == [(home, tmp_path / "x.png")]
    Path(tmp_path / "file").touch()
    monkeypatch.setenv("REALNET_HOME", str(tmp_path / "file"))
    assert call("predict")[0] == 2


def test_shipped_configs_stand_in_for_those_that_the_folder_lacks(tmp_path, monkeypatch):
    from realnet.config import experiments, load_dataset, paths

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "shipped", lambda: ROOT / "experiments")
    assert load_dataset("toy").classes == ("weave", "widget") and "VisA" in experiments()
    own = paths.experiment("toy") / "dataset.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("image_root: elsewhere\n")
    assert load_dataset("toy").image_root == "elsewhere"
    assert paths.config_file("toy", "realnet").is_relative_to(ROOT)
    assert paths.config_file("bolts", "realnet") == Path("experiments/bolts/realnet.yaml")


def test_a_demo_ends_with_the_first_stage_that_fails_or_is_stopped(monkeypatch, capsys):
    import signal

    from realnet.runtime.signals import StopSignals

    called = []

    def stage(verb: str, ending):
        def main(arguments):
            called.append((verb, *arguments))
            return ending() if ending else None

        monkeypatch.setattr(importlib.import_module(f"realnet.commands.{verb.replace('-', '_')}"), "main", main)

    def stopped() -> None:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGTERM)
            assert signals.asked

    for verb in ("prepare", "train-diffusion", "train-classifier", "sample", "train", "evaluate"):
        stage(verb, None)
    assert demo.main([]) == 0 and [verb for verb, *_ in called] == ["prepare", *demo.STAGES, "evaluate"]
    assert len(re.findall(r"^took +\d+ s$", capsys.readouterr().out, re.MULTILINE)) == 6
    called.clear()
    assert demo.main(["7"]) == 0 and called[4] == (
        *("train", "--dataset", "toy", "--device", "cpu", "--seed", "7", "--no-resume"),
    )
    for ending, code in ((lambda: 3, 3), (stopped, 130)):
        called.clear()
        stage("sample", ending)
        assert demo.main([]) == code and called[-1][0] == "sample"

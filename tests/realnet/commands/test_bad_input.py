"""Bad input, as interface.md lists it: exit code 2, one message with the thing and its repair, nothing written."""

import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import spoil
from conftest import ROOT, load_script

from realnet.commands import cli

TRAINING = ["train_diffusion", "train_classifier", "train_realnet"]
TESTED = ["train_realnet", "train_realnet --dry-run", "evaluation_realnet --class_name weave"]
SDAS = "--set 'anomalies.types={normal: 0.5, sdas: 0.5}'"
WEAVE = "--class_name weave"
PREDICT = f"predict_realnet {WEAVE} --input data/tiny/images/weave/test"
LARGER = "--set image_size=64 --set evaluation.score_pool=48"
OUT = "synthesize --output out"


def sound() -> None:
    """Leave the workspace as it is."""


IMAGES = [
    (
        sound,
        [f"{stage} --dataset tinny" for stage in TRAINING],
        ["no dataset 'tinny'", "datasets: tiny", "add --name"],
    ),
    (spoil.no_images, [*TRAINING, OUT, "evaluation_realnet"], ["images does not exist; put the images there"]),
    (spoil.empty_folder, TRAINING, ["images holds no class; expected", "<class>/train/good/*.png"]),
    (spoil.empty_classes, TRAINING, ["weave holds no training images", "widget holds no training images", "expected"]),
    (
        sound,
        [f"{script} --class_name weav widgt" for script in ("train_realnet", "evaluation_realnet", OUT)],
        ["tiny has no class 'weav', 'widgt'; its classes: weave, widget"],
    ),
    (spoil.diffusion, ["sample --classes weav"], ["tiny has no class 'weav'; its classes: weave, widget"]),
    (
        spoil.cut_training_images,
        [*TRAINING, "train_diffusion --dry-run", OUT],
        ["weave/train/good/001.png", "weave/train/good/002.png", "widget/train/good/001.png", "replace them"],
    ),
    (spoil.cut_test_images, TESTED, ["test/hole/000.png", "fibre/000_mask.png", "truncated files: 2; replace them"]),
    (spoil.large_masks, TESTED, ["hole/000_mask.png is 40x32", "fibre/000_mask.png is 40x32", "32x32", "same size"]),
    (spoil.masks_alone, TESTED, ["masks without an image: 2", "hole/000_mask", "fibre/000_mask", "remove the mask"]),
    (spoil.leaks, TESTED, ["leak1.png equals", "train/good/001.png", "leak2.png equals", "remove one of the two"]),
    (
        spoil.left_by_a_killed_sampler,
        [f"train_realnet {SDAS}", f"{OUT} {SDAS}"],
        [f"sample.py --dataset tiny --classes {name}" for name in spoil.CLASSES],
    ),
    (spoil.cut_sdas, [f"train_realnet {SDAS}"], ["sdas/weave/00000.jpg", "sdas/widget/00000.jpg", "replace them"]),
    (sound, ["train_realnet --set 'anomalies.types={dtd: 1}'"], ["data/DTD/images holds none; unpack"]),
    (
        sound,
        [f"train_realnet{more} --set train.batch_size=7" for more in ("", " --dry-run")],
        ["batch of 7", "weave: 6 training images", "widget: 6 training images", "train.batch_size=N"],
    ),
    (
        sound,
        [f"{stage}{more} --set train.batch_size=13" for stage in TRAINING[:2] for more in ("", " --dry-run")],
        ["too few images for a batch of", "12 training images", "train.batch_size=N"],
    ),
    (spoil.no_widget, ["train_classifier"], ["tiny has one class (weave)", "leave this stage out"]),
]

CHECKPOINTS = [
    (sound, ["sample"], ["make it with: python train_diffusion.py --dataset tiny"]),
    (
        sound,
        ["evaluation_realnet"],
        [f"train_realnet.py --dataset tiny --class_name {name}" for name in spoil.CLASSES],
    ),
    (sound, [PREDICT], ["make it with: python train_realnet.py --dataset tiny --class_name weave"]),
    (
        sound,
        [f"{stage} --set pretrained=absent.pt{more}" for stage in TRAINING[:2] for more in ("", " --dry-run")],
        ["pretrained: absent.pt does not exist", "README.md"],
    ),
    (
        spoil.diffusion,
        [f"{script} --checkpoint {spoil.DIFFUSION}" for script in (f"evaluation_realnet {WEAVE}", PREDICT)],
        ["is of kind 'diffusion', but 'realnet' is needed; give the right file"],
    ),
    (
        spoil.detectors,
        [f"{script} --checkpoint nope.pth" for script in (f"evaluation_realnet {WEAVE}", PREDICT)],
        ["--checkpoint nope.pth does not exist; give"],
    ),
    (
        spoil.detectors,
        [f"{script} {LARGER}" for script in (PREDICT, f"{PREDICT} --dry-run", f"evaluation_realnet {WEAVE}")],
        ["evaluation.score_pool is 48, but", "ckpt_last.pth is for 32x32 pixels"],
    ),
    (
        spoil.diffusion,
        [f"train_classifier --set pretrained={spoil.DIFFUSION}{more}" for more in ("", " --dry-run")],
        ["'classifier' is needed; give"],
    ),
    (spoil.detectors, [f"sample --set diffusion={spoil.DETECTOR}"], ["'realnet', but 'diffusion' is needed; give"]),
    (
        spoil.detector_of_another_dataset,
        [f"{script} --checkpoint metal.pth" for script in (f"evaluation_realnet {WEAVE}", PREDICT)],
        ["metal.pth is of dataset 'metal', but 'tiny' is needed; give the right file"],
    ),
    (spoil.diffusion_of_another_dataset, ["sample"], ["is of dataset 'metal', but 'tiny' is needed; give"]),
    (
        spoil.detector_of_widget,
        [f"evaluation_realnet {WEAVE}", f"evaluation_realnet {WEAVE} --dry-run", PREDICT],
        ["is of class 'widget', but 'weave' is needed; give the right file"],
    ),
    (
        spoil.detector_of_other_tensors,
        [f"{command}{more}" for command in (f"evaluation_realnet {WEAVE}", PREDICT) for more in ("", " --dry-run")],
        ["missing: rrs.decoder3.2.weight (2, ", "extra: rrs.more (2,)", "shape: rrs.decoder3.2.bias (7,), needed (2,)"],
    ),
    (
        spoil.best_detector_of_other_tensors,
        ["evaluation_realnet --dry-run"],
        ["ckpt_best.pth does not fit the network"],
    ),
    (
        spoil.pretrained_diffusion_of_other_tensors,
        [f"train_diffusion --set pretrained=given.pt{more}" for more in ("", " --dry-run")],
        ["given.pt does not fit", "missing: out.2.bias", "shape: time_embed.0.weight (256, 64), needed (128, 32)"],
    ),
    (
        spoil.detector_of_infinite_weights,
        [
            PREDICT,
            f"{PREDICT} --dry-run",
            f"evaluation_realnet {WEAVE}",
            f"evaluation_realnet {WEAVE} --dry-run",
            f"export_realnet {WEAVE}",
            f"calibrate_realnet {WEAVE} --good data/tiny/images/weave/test/good",
        ],
        ["weave/ckpt_last.pth holds 1 tensors with NaN or infinite weights, such as rrs.decoder3.2.bias", "train it"],
    ),
    (
        spoil.cut_detector,
        [f"evaluation_realnet {WEAVE}", PREDICT],
        ["ckpt_last.pth is not a complete", "make it or down"],
    ),
    (
        spoil.cut_states,
        ["train_diffusion", "train_diffusion --dry-run"],
        ["state.pth cannot be read", "start again with --no-resume"],
    ),
    (spoil.diffusion_and_a_third_class, ["sample"], ["weave, widget, but the dataset has weave, widget, zebra; train"]),
    (
        spoil.published_diffusion_of_three_classes,
        ["sample"],
        ["has 3 classes, but the dataset has 2; give the"],
    ),
    (spoil.classifier_of_three_classes, ["sample"], ["has 3 classes, but the dataset has 2; give the"]),
]

CONFIGS = [
    (
        spoil.misspelt_configs,
        TRAINING,
        ["train.batch_sise: unknown key (value 2); did you mean train.batch_size?", "num_steps", "1.5", "image_size"],
    ),
    (sound, ["train_realnet --set rrs.mods=1"], ["rrs.mods: unknown key (value 1); did you mean rrs.modes?"]),
    (sound, ["sample --strength 0.2 0.1"], ["strength: a range starts with its smaller number, got 0.2 to 0.1"]),
    (sound, ["sample --num_samples 0"], ["num_samples: Input should be greater than 0 (got 0)"]),
    (sound, [f"{s} --config absent.yaml" for s in TRAINING], ["cannot read the config absent.yaml", "--config"]),
    (sound, [f"{s} --device gpu7" for s in TRAINING], ["--device gpu7 is unavailable here", "cpu"]),
    (sound, [f"{s} --device gpu7 --dry-run" for s in TRAINING], ["--device gpu7 is not a device; give cpu, cuda"]),
    (sound, ["train_diffusion --set image_size=33"], ["image_size 33x33 must be a multiple of 2"]),
    (sound, ["train_realnet --set image_size=40"], ["image_size 40x40: both sides must be multiples of 16"]),
    (sound, ["train_realnet --set 'blocks={a: {levels: {layer9: 8}}}'"], ["no level 'layer9'; it has layer1 (32"]),
    (
        sound,
        ["train_realnet --set 'blocks={a: {levels: {layer1: 999}}}'"],
        ["keeps 999 channels, but the level has 32"],
    ),
    (sound, ["train_realnet --set backbone.name=resnet81"], ["timm has no model 'resnet81'"]),
    (sound, ["train_realnet --set backbone.weights=absent.pth"], ["absent.pth does not exist; give"]),
    (spoil.diffusion, ["sample --set respacing=ddim7000"], ["respacing 'ddim7000'"]),
    (
        sound,
        [f"train_diffusion --set validation.respacing=ddim7000{more}" for more in ("", " --dry-run")],
        ["respacing 'ddim7000'"],
    ),
    (sound, ["train_diffusion --set validation.strengths=[]"], ["validation.strengths: ", "at least 1 item"]),
    (
        sound,
        ["train_realnet --set evaluation.score_pool=64"],
        ["evaluation.score_pool 64 is more than image_size 32x32"],
    ),
    (sound, ["train_classifier --seed -1", "sample --seed -1"], ["seed: Input should be greater than or equal to 0"]),
    (sound, [f"train_realnet --seed {2**63}"], ["seed: Input should be less than"]),
]


CASES = [
    pytest.param(harm, command, says, id=f"{harm.__name__}: {command}")
    for harm, commands, says in [*IMAGES, *CHECKPOINTS, *CONFIGS]
    for command in commands
]


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def words(command: str) -> list[str]:
    """Split a command line; the dataset is ``tiny`` unless it says otherwise."""
    script, *arguments = shlex.split(command)
    return [script, *([] if "--dataset" in arguments else ["--dataset", "tiny"]), *arguments]


def check(message: str, says: list[str]) -> None:
    assert message.count("error: ") == 1 and "Traceback" not in message
    told = message.partition("error: ")[2]
    assert not [part for part in says if part not in told], told


@pytest.mark.parametrize(("harm", "command", "says"), CASES)
def test_bad_input_is_refused_and_nothing_is_written(tiny, capsys, harm, command, says):
    harm()
    before = contents(tiny)
    capsys.readouterr()
    script, *arguments = words(command)
    with pytest.raises(SystemExit) as end:
        cli.run(partial(lambda given, _: load_script(script).main(given), arguments))
    printed = capsys.readouterr()
    assert end.value.code == 2, printed.err
    assert contents(tiny) == before
    check(printed.err, says)


def test_a_process_of_its_own_says_the_same(tiny):
    spoil.cut_training_images()
    before = contents(tiny)
    ended = subprocess.run(
        [sys.executable, str(ROOT / "train_realnet.py"), "--dataset", "tiny"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == 2
    assert contents(tiny) == before
    check(ended.stderr, ["weave/train/good/001.png", "widget/train/good/001.png", "replace them"])


def test_workers_do_not_outlive_a_refusal(tiny):
    picture = Path("data/tiny/images/weave/train/good/000.png")
    whole = picture.read_bytes()
    start = whole.index(b"IDAT") + 10
    picture.write_bytes(whole[:start] + b"U" * (len(whole) - start - 20) + whole[-20:])
    flags = ["--dataset", "tiny", "--class_name", "weave", "--device", "cpu", "--set", "runtime.num_workers=1"]
    ended = subprocess.run(
        [sys.executable, ROOT / "train_realnet.py", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2 and "good/000.png" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr

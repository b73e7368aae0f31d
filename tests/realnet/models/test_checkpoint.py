import builtins
import os
import pickle

import pytest
import torch
from torch import nn

from realnet.config import RealNetConfig
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.checkpoint import Checkpoint


def test_our_own_files_hold_all_that_they_say_in_plain_types(tmp_path):
    config = RealNetConfig().model_dump(mode="json")
    stored = Checkpoint(
        kind="realnet",
        state_dict={"rrs.x": torch.ones(3, requires_grad=True), "afs.i": torch.arange(6)[::2]},
        dataset="a",
        classes=("wood", "01"),
        class_name="wood",
        config=config,
        facts={"step": 3, "metrics": {"image_auroc": 0.5, "aupro": None}},
    )
    checkpoint.save(tmp_path / "new/folder/ckpt.pth", stored)
    loaded = checkpoint.load(tmp_path / "new/folder/ckpt.pth", kind="realnet", dataset="a", class_name="wood")
    assert {k: v.tolist() for k, v in loaded.state_dict.items()} == {"rrs.x": [1, 1, 1], "afs.i": [0, 2, 4]}
    for key in ("kind", "dataset", "classes", "class_name", "config", "facts"):
        assert getattr(loaded, key) == getattr(stored, key)
    assert RealNetConfig.model_validate(loaded.config) == RealNetConfig()
    values = torch.load(tmp_path / "new/folder/ckpt.pth", weights_only=True)
    assert values["versions"]["torch"] == str(torch.__version__)


def test_weights_in_half_precision_are_loaded_into_the_networks_own():
    state = {key: value.half() for key, value in nn.Linear(3, 2).state_dict().items()}
    with torch.device("meta"):
        empty = nn.Linear(3, 2)
    for model in (nn.Linear(3, 2), empty):
        checkpoint.load_into(model, state, "half.pth")
        assert model.weight.dtype == torch.float32 and model.weight.requires_grad
        assert torch.equal(model.weight, state["weight"].float())


def test_missing_extra_and_misshapen_tensors_are_listed_and_nothing_is_loaded():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {**model.state_dict(), "0.weight": torch.ones(5, 2), "other": torch.ones(7)}
    del state["1.bias"]
    with pytest.raises(UserError) as refused:
        checkpoint.load_into(model, state, "file.pth")
    assert str(refused.value).splitlines() == [
        "file.pth does not fit the network that the config describes:",
        "  missing: 1.bias (4,)",
        "  extra: other (7,)",
        "  shape: 0.weight (5, 2), needed (3, 2)",
    ]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_long_list_is_cut():
    with pytest.raises(UserError, match=r"and 5 more$"):
        checkpoint.load_into(nn.Linear(1, 1), {f"{i}": torch.ones(1) for i in range(23)}, "file.pth")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "diffusion"}, "is of kind 'realnet', but 'diffusion' is needed"),
        ({"kind": "realnet", "dataset": "b"}, "is of dataset 'a', but 'b' is needed"),
        ({"kind": "realnet", "dataset": "a", "class_name": "tile"}, "is of class 'wood', but 'tile' is needed"),
    ],
)
def test_another_kind_dataset_or_class_is_refused_by_name(tmp_path, asked, message):
    path = tmp_path / "ckpt.pth"
    checkpoint.save(path, Checkpoint(kind="realnet", state_dict={}, dataset="a", class_name="wood"))
    with pytest.raises(UserError, match=rf"ckpt\.pth {message}; give the right file"):
        checkpoint.load(path, **asked)


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("diffusion", "python train_diffusion.py --dataset BTAD"),
        ("classifier", "python train_classifier.py --dataset BTAD"),
        ("realnet", "python train_realnet.py --dataset BTAD --class_name 01"),
    ],
)
def test_an_absent_files_error_says_which_command_makes_it(tmp_path, kind, command):
    with pytest.raises(UserError, match=f"does not exist; make it with: {command}$"):
        checkpoint.load(tmp_path / "ckpt.pth", kind=kind, dataset="BTAD", class_name="01")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 1, "weights": 3}, "holds no network of this project: its first keys are epoch, weights"),
        ({"state_dict": {"fc.weight": torch.ones(1)}}, "holds no network"),
        ({"state_dict": [1, 2]}, "its state_dict is a list"),
        ({1: torch.ones(1)}, "its first keys are 1"),
        (torch.ones(3), "holds no network"),
        ({"kind": "training state", "step": 3}, "is of kind 'training state', but 'realnet' is needed"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, values, message):
    torch.save(values, tmp_path / "ckpt.pth")
    with pytest.raises(UserError, match=message):
        checkpoint.load(tmp_path / "ckpt.pth", kind="realnet")


def test_what_is_no_file_of_torch_or_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "ckpt.pth"
    checkpoint.save(path, Checkpoint(kind="realnet", state_dict={"rrs.x": torch.ones(999)}))
    whole = path.read_bytes()
    for content in (b"", b"<!DOCTYPE html>", b"PK", whole[:300], whole[: len(whole) // 2], whole[:-30], whole[1000:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"ckpt\.pth is not a complete checkpoint .*; make it or download it again"):
            checkpoint.load(path, kind="realnet")
    path.write_bytes(pickle.dumps({"state_dict": 3}))
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        checkpoint.load(path, kind="realnet")


class Malicious:
    """Runs a command where it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(("function", "name"), [(os.mkdir, "posix.mkdir"), (builtins.eval, "eval")])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, function, name, zipped):
    trace, path = tmp_path / "ran", tmp_path / "ckpt.pth"
    order = f"{trace}" if function is os.mkdir else f"__import__('os').mkdir('{trace}')"
    values = {"state_dict": {"rrs.x": torch.ones(2)}, "arch": Malicious(function, order)}
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=rf"ckpt\.pth is refused: it holds code \({name}\)"):
        checkpoint.load(path, kind="realnet")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # the file does run code where it is let


def test_a_plain_pickle_that_would_run_code_runs_nothing(tmp_path):
    trace, path = tmp_path / "ran", tmp_path / "ckpt.pth"
    path.write_bytes(pickle.dumps(Malicious(os.system, f"touch {trace}")))
    with pytest.raises(UserError):
        checkpoint.load(path, kind="realnet")
    assert not trace.exists()


def test_whole_modules_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "ckpt.pth")
    with pytest.raises(UserError, match=r"holds code \(torch\.nn\.modules\.linear\.Linear\)"):
        checkpoint.read(tmp_path / "ckpt.pth")

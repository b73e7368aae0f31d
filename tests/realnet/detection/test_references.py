import pytest
import torch

from realnet.detection.references import build_reference
from realnet.errors import UserError
from realnet.models.backbone import Backbone
from realnet.models.known_features import InMemory, KnownFeatures

SIZE = (64, 64)


@pytest.fixture(scope="module")
def backbone():
    return Backbone("test_resnet", "none")


@pytest.fixture(scope="module")
def normal():
    """Images of one pattern, each with a little noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *SIZE, generator=generator) + 0.05 * torch.randn(12, 3, *SIZE, generator=generator)


def build(name, backbone, levels, seed=0, store=None):
    return build_reference(name, KnownFeatures(backbone, levels, store), SIZE, seed=seed)


@pytest.mark.parametrize("name", ["padim", "nearest"])
def test_a_reference_finds_a_patch_where_it_is(backbone, normal, name):
    reference = build(name, backbone, ["layer1", "layer2", "layer3", "layer2"])
    reference.fit(normal[:10].split(4))
    odd = normal[10:].clone()
    odd[0, :, 8:24, 40:56] = 3.0
    maps, scores = reference.predict(odd)
    assert maps.shape == (2, *SIZE) and scores.shape == (2,)
    assert scores[0] > 1.3 * scores[1]
    row, column = divmod(int(maps[0].argmax()), SIZE[1])
    assert 4 <= row < 28 and 36 <= column < 60


@pytest.mark.parametrize("name", ["padim", "nearest"])
def test_a_reference_is_the_same_at_each_fit_and_for_each_batch(backbone, normal, name):
    found = []
    for sizes in (3, 10):
        reference = build(name, backbone, ["layer2", "layer3"], seed=5)
        reference.fit(normal[:10].split(sizes))
        found.append(torch.cat([reference.predict(image).scores for image in normal[10:].split(1)]))
    assert torch.allclose(*found, rtol=1e-3)


def test_references_share_the_features_of_images(backbone, normal):
    store, seen = InMemory(64), []
    hook = backbone.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    scores = {}
    for shared in (store, None):
        for name in ("padim", "nearest"):
            reference = build(name, backbone, ["layer1", "layer2"], store=shared)
            reference.fit(normal[:10].split(5))
            scores[name, shared] = reference.predict(normal[10:]).scores
        if shared:
            assert seen == [5, 5, 2]
    hook.remove()
    assert all(torch.equal(scores[name, store], scores[name, None]) for name in ("padim", "nearest"))


def test_too_few_images_are_refused(backbone, normal):
    with pytest.raises(UserError, match="at least 2 normal training images"):
        build("padim", backbone, ["layer1"]).fit([normal[:1]])
    with pytest.raises(UserError, match="need a normal training image"):
        build("nearest", backbone, ["layer1"]).fit([])
    with pytest.raises(UserError, match="no level 'layer9'"):
        build("nearest", backbone, ["layer9"])

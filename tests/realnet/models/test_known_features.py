import os
import time
from pathlib import Path

import pytest
import torch

from realnet.config import DetectorRuntimeConfig
from realnet.models.backbone import Backbone
from realnet.models.build import store_for
from realnet.models.known_features import InFiles, InMemory, KnownFeatures, store_of
from realnet.runtime.packing import can_pack, pack_convolutions

LEVELS = ("layer1", "layer3")


@pytest.fixture
def backbone():
    made = Backbone("test_resnet", "none")
    made.seen = []
    made.register_forward_pre_hook(lambda _module, given: made.seen.append(len(given[0])))
    return made


def images(number=3, size=32, seed=0):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_features_are_the_backbones_to_the_last_bit_and_computed_once(backbone, tmp_path, kind):
    def known():
        return KnownFeatures(backbone, LEVELS, InFiles(tmp_path, 64) if kind == "files" else kept)

    kept, given = InMemory(64), images()
    if can_pack(torch.float32):
        pack_convolutions(backbone)  # whose features lie channels last
    expected = {name: backbone(given)[name] for name in LEVELS}
    backbone.seen.clear()
    found = [known()(given), known()(given), known()(given.to(memory_format=torch.channels_last))]
    assert backbone.seen == [3]
    for one in found:
        for name in LEVELS:
            assert torch.equal(one[name], expected[name]) and one[name].stride() == expected[name].contiguous().stride()
    known()(images(4))  # of which three are known
    assert backbone.seen == [3, 4]
    with torch.inference_mode():
        assert torch.equal(known()(images(4))["layer1"][:3], expected["layer1"]) and backbone.seen == [3, 4]


def test_only_what_is_computed_alike_is_shared(backbone, tmp_path):
    store, given = InFiles(tmp_path, 256), images()

    def is_shared(made, levels=LEVELS, pixels=given):
        before = len(files_of(tmp_path))
        KnownFeatures(made, levels, store)(pixels)
        return len(files_of(tmp_path)) == before

    assert not is_shared(backbone) and is_shared(backbone)
    assert not is_shared(backbone, levels=("layer1",))
    assert not is_shared(backbone, pixels=images(size=64))
    changed = given.clone()
    changed[:, 0, 5, 5] += 1e-3
    assert not is_shared(backbone, pixels=changed)
    other = Backbone("test_resnet", "none")
    with torch.no_grad():
        next(other.parameters()).mul_(1.001)
    assert not is_shared(other)
    if can_pack(torch.float32):
        packed, another = Backbone("test_resnet", "none"), other
        pack_convolutions(packed)
        pack_convolutions(another)
        assert not is_shared(packed) and not is_shared(another) and is_shared(packed)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        flipped,
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(next(f for f in files_of(path.parents[1]) if f != path).read_bytes()),
        a_folder,
    ],
)
def test_a_damaged_file_or_anothers_is_never_read(backbone, tmp_path, spoil, caplog):
    given = images()
    expected = KnownFeatures(backbone, LEVELS, InFiles(tmp_path, 64))(given)
    spoil(files_of(tmp_path)[1])
    backbone.seen.clear()
    found = KnownFeatures(backbone, LEVELS, InFiles(tmp_path, 64))(given)
    assert all(torch.equal(found[name], expected[name]) for name in LEVELS) and backbone.seen == [3]
    again = KnownFeatures(backbone, LEVELS, InFiles(tmp_path, 64))(given)
    assert all(torch.equal(again[name], expected[name]) for name in LEVELS)
    assert backbone.seen == [3] or (spoil is a_folder and "cannot write" in caplog.text)


def test_a_full_memory_forgets_the_oldest(backbone):
    (size,) = {len(data) for data in _kept(backbone, 1).values()}
    store = InMemory(1)
    number = store.budget // size
    known = KnownFeatures(backbone, LEVELS, store)
    for seed in range(number + 2):
        known(images(1, seed=seed))
    assert len(store._kept) == number and store._size <= store.budget
    backbone.seen.clear()
    known(images(1, seed=number + 1))
    assert not backbone.seen
    known(images(1, seed=0))
    assert backbone.seen == [1]


def _kept(backbone, number):
    store = InMemory(64)
    KnownFeatures(backbone, LEVELS, store)(images(number))
    return store._kept


def test_a_full_folder_takes_no_more_and_says_so_once(backbone, tmp_path, caplog):
    (tmp_path / "aa").mkdir()
    (tmp_path / "aa" / "other.features").write_bytes(bytes(2**20))
    known, given = KnownFeatures(backbone, LEVELS, InFiles(tmp_path, 1)), images()
    known(given)
    assert len(files_of(tmp_path)) == 1
    assert caplog.text.count("is full (1 MiB); delete it, or set features_mib higher") == 1


def test_what_a_killed_process_left_half_written_goes_after_a_day(tmp_path):
    (tmp_path / "aa").mkdir()
    old, fresh = (tmp_path / "aa" / f".{name}.features.host-1.part" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    InFiles(tmp_path, 1)
    assert files_of(tmp_path) == [fresh]


def test_a_folder_that_cannot_be_made_costs_time_and_nothing_else(backbone, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    known, given = KnownFeatures(backbone, LEVELS, InFiles(tmp_path / "file", 64)), images()
    assert torch.equal(known(given)["layer1"], known(given)["layer1"])
    assert caplog.text.count("features are not kept: cannot write") == 1


def test_a_process_has_one_store_for_each_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store_of.cache_clear()
    assert store_for(DetectorRuntimeConfig(features_mib=0)) is None
    assert store_for(DetectorRuntimeConfig()) is store_for(DetectorRuntimeConfig())
    kept = store_for(DetectorRuntimeConfig(keep_features=True))
    assert isinstance(kept, InFiles) and kept.folder == Path("data/.features") and not Path("data").exists()
    store_of.cache_clear()

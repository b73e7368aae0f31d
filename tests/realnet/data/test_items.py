import logging
import multiprocessing
import os
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from alone import denormalise
from torch.utils.data import DataLoader

from realnet.anomalies.items import DetectorTrainDataset
from realnet.anomalies.synthesis import AnomalySynthesizer
from realnet.config import AnomalyConfig
from realnet.data import cache as cache_module
from realnet.data.cache import ImageCache
from realnet.data.images import read_image, resize_image, write_image
from realnet.data.index import Entry
from realnet.data.items import DiffusionDataset, flip_and_turn
from realnet.data.order import EpochOrder

SIZE = (24, 32)
COUNT = 6


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        write_image(tmp_path / f"nut/{number}.png", rng.integers(0, 256, (40, 50, 3)).astype(np.uint8))
    return tmp_path


@pytest.fixture
def entries(root):
    return [Entry(f"nut/{number}.png", 0, "good", "nut") for number in range(COUNT)]


def detector(root, entries, *, types=None, foreground="full", **options):
    config = AnomalyConfig(types=types or {"normal": 0.5, "self": 0.5})
    synthesizer = AnomalySynthesizer(config, {}, image_size=SIZE, foreground=foreground)
    return DetectorTrainDataset(entries, root, image_size=SIZE, synthesizer=synthesizer, **{"seed": 1, **options})


def diffusion(root, entries, **options):
    classes = ["bolt", "nut"]
    return DiffusionDataset(entries, root, classes=classes, image_size=SIZE, num_steps=50, **{"seed": 1, **options})


def batches(dataset, count, **options):
    sampler = EpochOrder(len(dataset), seed=0, batch_size=4, num_steps=count)
    return list(DataLoader(dataset, sampler=sampler, batch_size=4, **options))


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


def test_detector_items(root, entries):
    dataset = detector(root, entries)
    items = [dataset[epoch, 2] for epoch in range(20)]
    clean = resize_image(read_image(root / "nut/2.png"), SIZE)
    for item in items:
        assert item["image"].shape == item["clean"].shape == (3, *SIZE)
        assert item["mask"].shape == (1, *SIZE)
        assert item["mask"].dtype == item["image"].dtype == torch.float32
        assert set(item["mask"].unique().tolist()) <= {0.0, 1.0}
        assert item["index"] == 2
        assert item["has_anomaly"] == bool(item["mask"].any()) == (not torch.equal(item["image"], item["clean"]))
        outside = (item["mask"] == 0).expand(3, -1, -1)
        assert torch.equal(item["image"][outside], item["clean"][outside])
        assert np.array_equal(denormalise(item["clean"]).permute(1, 2, 0).numpy(), clean)
    assert {item["has_anomaly"] for item in items} == {True, False}


def test_draws_are_of_seed_epoch_and_index_alone(root, entries):
    types = {"self": 1.0}
    dataset = detector(root, entries, types=types)
    assert_same(dataset[3, 1], dataset[3, 1])
    for other in (dataset[4, 1], dataset[3, 2], detector(root, entries, types=types, seed=2)[3, 1]):
        assert not torch.equal(dataset[3, 1]["mask"], other["mask"])
    assert_same(dataset[3, 1], detector(root, entries, types=types, cache_mib=0)[3, 1])


def test_afs_gets_anomalies_alone(root, entries):
    dataset = detector(root, entries, types={"normal": 0.9, "self": 0.1}, only_anomalous=True)
    assert all(dataset[epoch, 0]["has_anomaly"] for epoch in range(20))


def test_augmentation_is_off_by_default(root, entries):
    plain, augmented = detector(root, entries), detector(root, entries, augment=True)
    assert torch.equal(plain[0, 0]["clean"], plain[1, 0]["clean"])
    assert len({augmented[epoch, 0]["clean"].numpy().tobytes() for epoch in range(30)}) == 4  # 90° does not fit


@pytest.mark.parametrize(
    ("make", "workers", "method"), [(detector, 2, "fork"), (diffusion, 2, "fork"), (detector, 1, "spawn")]
)
def test_the_number_of_workers_changes_nothing(root, entries, make, workers, method):
    alone = batches(make(root, entries), 4)
    others = batches(make(root, entries), 4, num_workers=workers, multiprocessing_context=method)
    for first, second in zip(alone, others, strict=True):
        assert_same(first, second)


def test_processes_get_the_items_that_one_would(root, entries):
    dataset = diffusion(root, entries)
    whole = [dataset[key] for key in islice(EpochOrder(COUNT, seed=0, batch_size=4), 8)]
    ranks = [EpochOrder(COUNT, seed=0, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    halves = [[dataset[key] for key in islice(rank, 4)] for rank in ranks]
    together = halves[0][:2] + halves[1][:2] + halves[0][2:] + halves[1][2:]
    for first, second in zip(whole, together, strict=True):
        assert_same(first, second)


def test_diffusion_items(root, entries):
    dataset = diffusion(root, entries)
    items = [dataset[epoch, 0] for epoch in range(200)]
    image = resize_image(read_image(root / "nut/0.png"), SIZE)
    expected = torch.from_numpy(image.copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(items[0]["image"], expected)
    assert {item["class_index"] for item in items} == {1}
    steps = {item["t"] for item in items}
    assert min(steps) >= 0
    assert max(steps) <= 49
    assert len(steps) > 40
    noise = torch.stack([item["noise"] for item in items])
    assert noise.shape == (200, 3, *SIZE)
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_the_cache_reads_each_file_once_within_its_budget(root, entries, monkeypatch):
    reads = []
    monkeypatch.setattr(cache_module, "read_image", lambda path, bits: reads.append(path.name) or read_image(path))
    files = [root / entry.filename for entry in entries]
    cache = ImageCache(files, (256, 512), bits=16, budget_mib=1)  # 384 KiB an image
    assert cache.capacity == 2
    for _ in range(3):
        for index in range(3):
            assert np.array_equal(cache[index], resize_image(read_image(files[index]), (256, 512)))
    assert sorted(reads) == ["0.png", "1.png", "2.png", "2.png", "2.png"]


def test_forked_workers_share_the_cache(root, entries):
    dataset = detector(root, entries)
    batches(dataset, 3, num_workers=2, multiprocessing_context="fork")
    assert dataset.images._is_filled.sum() >= 4


def test_a_spawned_cache_is_its_own(root, entries):
    cache = ImageCache([root / entry.filename for entry in entries], SIZE, bits=16)
    before = cache[0]
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.capacity == cache.capacity
    assert not copy._is_filled.any()
    assert np.array_equal(copy[0], before)


@pytest.mark.parametrize(("shape", "variants"), [((4, 4, 3), 8), ((4, 6, 3), 4)])
def test_flips_and_turns(shape, variants):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    results = [flip_and_turn(image, np.random.default_rng(seed)) for seed in range(100)]
    assert {result.shape for result in results} == {shape}
    assert len({result.tobytes() for result in results}) == variants
    assert all(sorted(result.ravel()) == sorted(image.ravel()) for result in results)


def test_auto_foreground_is_reported_once(root, entries, caplog):
    with caplog.at_level(logging.INFO):
        detector(root, entries, foreground="auto")[0, 0]
    assert len(caplog.messages) == 1
    assert "class nut: no object found in 6 of 6 images" in caplog.messages[0]


def test_a_cached_image_is_whole_before_it_is_shown(root, entries):
    cache = ImageCache([root / entry.filename for entry in entries], SIZE, bits=16)
    told = []

    class Order:
        def __enter__(self):
            told.append((bool(cache._is_filled[0]), bool(cache._pixels[0].any())))

        def __exit__(self, *_):
            pass

    cache._order = Order()
    assert all(np.array_equal(cache[0], cache[0]) for _ in range(3))
    # before the first look; when the flag is set; at the second look, after which this process knows
    assert told == [(False, False), (False, True), (True, True)]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing is shared without forks")
def test_the_flags_of_cached_images_wait_for_other_workers(root, entries):
    cache = ImageCache([root / entry.filename for entry in entries], SIZE, bits=16)
    with cache._order:
        other = multiprocessing.get_context("fork").Process(
            target=lambda: os._exit(17 if not cache._order.acquire(block=False) else 1)
        )
        other.start()
        other.join(30)
    assert other.exitcode == 17


def test_stages_share_no_draws_unless_as_in_version_1_0(root, entries):
    def noise(**options):
        return diffusion(root, entries, **options)[0, 0]["noise"]

    assert not torch.equal(noise(purpose="diffusion"), noise(purpose="classifier"))
    first = noise(purpose="diffusion", draws=1)
    assert torch.equal(first, noise(purpose="classifier", draws=1))
    assert np.array_equal(first, np.random.default_rng((1, 0, 0)).standard_normal((3, *SIZE), dtype=np.float32))

"""Statistics of normal features: folds, the automatic choice, and a detector that is trained on them."""

from pathlib import Path

import pytest
import torch
from alone import ALONE, FP32

from realnet import Detector
from realnet.config import FeatureConfig, RealNetConfig, load
from realnet.data.cache import ImageCache
from realnet.data.tiles import Tiling
from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.build import build_detector
from realnet.models.known_features import InMemory, KnownFeatures
from realnet.runtime.distributed import World
from realnet.runtime.precision import Precision
from realnet.training.normal_statistics import Choice, NormalStatistics

WEIGHTS = Path("experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth")
TRAIN = ("train_realnet", "--dataset", "tiny", "--class_name", "weave", "--device", "cpu")
FEATURES = (
    "features.normalise=position",
    "features.folds=2",
    "calibration.holdout_fraction=0.2",
    "detector.fuse={position: true, deep: true}",
    "evaluation.score_pool=auto",
)
SETTINGS = tuple(word for setting in FEATURES for word in ("--set", setting))


def statistics(*, number=None, held_out=False, world=ALONE, store=None, **settings):
    model = build_detector(load(RealNetConfig, Path("experiments/tiny/realnet.yaml")))
    files = sorted(Path("data/tiny/images/weave/train/good").iterdir())
    images, rest = (ImageCache(part, (32, 32), bits=16) for part in (files[:number], files[number or 0 :]))
    config = FeatureConfig(**{"normalise": "position", "folds": 2, "shrinkage": 0.5, **settings})
    return NormalStatistics(
        model,
        images,
        config,
        held_out=rest if held_out else None,
        foreground="full",
        augment=settings.pop("augment", False),
        world=world,
        levels_of=KnownFeatures(model.backbone, model.afs.level_names(), store),
    )


def features_of(made):
    found = [features for _, features in made._features()]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def test_an_image_is_measured_by_the_folds_that_do_not_hold_it(tiny):
    made = statistics()
    assert made.fit() == Choice("position", 0.5)
    order = sorted(range(6), key=lambda index: index % 2)
    by_index = {name: values[[order.index(i) for i in range(6)]] for name, values in features_of(made).items()}
    indexes = torch.arange(6)
    held_out = made.normalise(by_index, indexes)
    seen = made.normalise(by_index, indexes + 1)  # by the fold that holds it
    for name in held_out:
        assert held_out[name].square().mean() > 1.5 * seen[name].square().mean()
        alone = made.normalise({name: by_index[name][3:4]}, indexes[3:4])[name]
        assert torch.allclose(alone[0], held_out[name][3], atol=1e-5)


def test_the_model_in_use_has_the_statistics_of_all_images(tiny):
    made = statistics()
    made.fit()
    white = {name: made.whole[name](features) for name, features in features_of(made).items()}
    for values in white.values():
        assert values.mean(dim=0).abs().max() < 1e-2


def test_held_out_images_count_in_use_and_are_measured_without_them(tiny):
    made, without = statistics(number=4, held_out=True), statistics(number=4)
    made.fit(), without.fit()
    everything = statistics()
    everything.fit()
    held_out = made.selected([made.held_out[0], made.held_out[1]])
    for name, features in held_out.items():
        assert torch.allclose(made.whole[name](features), everything.whole[name](features), atol=1e-3)
        unseen = made.without_held_out()[name](features)
        assert torch.allclose(unseen, without.whole[name](features), atol=1e-3)
        assert unseen.square().mean() > 1.5 * made.whole[name](features).square().mean()


@pytest.mark.parametrize("kind", ["auto", "channel", "pooled", "position"])
def test_what_is_chosen_is_fitted(tiny, kind, caplog):
    made = statistics(normalise=kind, shrinkage="auto")
    with caplog.at_level("INFO", "realnet"):
        choice = made.fit()
    assert choice.normalise in ({"position", "channel"} if kind == "auto" else {kind})
    assert ("image AUROC of probes on held-out folds" in caplog.text) == (kind in {"auto", "position"})
    assert made.fit(choice) == choice


def test_pooled_statistics_are_those_of_all_positions_together(tiny):
    made = statistics(normalise="pooled")
    made.fit()
    features = made.selected([made.images[index] for index in range(len(made.images))])
    for name, module in made.whole.items():
        values, rows = module(features[name]), features[name].movedim(1, 3).flatten(0, 2)
        torch.testing.assert_close(module.mean[0], rows.mean(dim=0), atol=1e-4, rtol=1e-4)
        assert 0.5 < values.square().mean() <= 1.05, name  # less than 1 by the ridge


def test_too_few_images_are_refused(tiny):
    with pytest.raises(UserError, match=r"features\.folds, 7, and there are 6"):
        statistics(folds=7)


def test_fewer_images_than_processes_are_refused_before_they_wait_for_each_other(tiny):
    with pytest.raises(UserError, match="7 processes share the 6 training images"):
        statistics(world=World(6, 7, FP32))


def test_a_run_in_two_parts_equals_a_run_in_one_and_the_file_holds_all(tiny, run_script):
    run_script(*TRAIN, *SETTINGS)
    whole = checkpoint.load(WEIGHTS, kind="realnet")
    run_script(*TRAIN, *SETTINGS, "--no-resume", "--set", "train.num_steps=2")
    assert "step 2 of 4" in run_script(*TRAIN, *SETTINGS)
    parts = checkpoint.load(WEIGHTS, kind="realnet")
    assert whole.state_dict.keys() == parts.state_dict.keys()
    for key, value in whole.state_dict.items():
        assert torch.allclose(value, parts.state_dict[key], atol=1e-5), key
    assert whole.config["features"]["shrinkage"] != "auto" and whole.config["evaluation"]["score_pool"] != "auto"
    assert whole.state_dict["fusion.scales"].shape == (5,) and whole.state_dict["fusion.scales"].min() > 0
    assert whole.state_dict["normal.deep.mean"].abs().max() > 0
    learned = checkpoint.read(WEIGHTS.with_suffix(".state.pth"))["task"]["model"]
    for key, value in whole.state_dict.items():  # what is fitted after training teaches the networks nothing
        assert key.startswith("fusion.") or torch.equal(value, learned[key]), key
    detector = Detector.load(WEIGHTS, device="cpu")
    found = detector.predict(min(Path("data/tiny/images/weave/test/good").iterdir()))
    assert 0 < found.image_score < 1 and found.verdict in {"normal", "defect"}


def test_fusion_without_statistics_is_refused(tiny, run_script):
    with pytest.raises(UserError, match=r"detector\.fuse\.position needs features\.normalise"):
        run_script(*TRAIN, "--set", "detector.fuse.position=true")


def test_statistics_that_do_not_fit_are_refused_before_any_work(tiny, monkeypatch, run_script):
    monkeypatch.setattr("realnet.training.statistics_need._memory_of", lambda device: 1e6)
    for more in ((), ("--dry-run",)):
        with pytest.raises(UserError, match=r"needs 0\.0 GB for a covariance at each position \(block1: 24 channels"):
            run_script(*TRAIN, *SETTINGS, *more)


def test_a_dry_run_states_the_memory_of_the_statistics(tiny, run_script):
    printed = run_script(*TRAIN, *SETTINGS, "--dry-run")
    assert "normal statistics" in printed and "GB in training" in printed
    assert "normal statistics" not in run_script(*TRAIN, "--dry-run")


def test_statistics_without_a_hold_out_are_refused(tiny, run_script):
    with pytest.raises(UserError, match=r"features\.normalise needs calibration\.holdout_fraction above 0"):
        run_script(*TRAIN, "--set", "features.normalise=position")


def test_a_covariance_that_cannot_be_inverted_is_refused(tiny, run_script):
    odd = ("--set", "features.shrinkage=0", "--set", "features.ridge=1e-12")
    with pytest.raises(UserError, match=r"cannot be inverted; set features\.ridge or features\.shrinkage higher"):
        run_script(*TRAIN, *SETTINGS, *odd)


def test_in_16_bits_the_fused_map_is_computed_in_32(tiny, run_script):
    run_script(*TRAIN, *SETTINGS, "--set", "detector.fuse.deep=false")  # here one pixel of its map is the image
    detector = Detector.load(WEIGHTS, precision=Precision(torch.bfloat16, torch.device("cpu")))
    found = detector.predict(min(Path("data/tiny/images/weave/test/good").iterdir())).anomaly_map
    assert len(set(found.ravel().tolist())) > 0.9 * found.size


def test_a_dry_run_counts_the_folds(tiny, run_script):
    with pytest.raises(UserError, match=r"features\.folds, 6, and there are 5"):
        run_script(*TRAIN, *SETTINGS, "--set", "features.folds=6", "--dry-run")


def of_tiles(tiling, *, augment=False):
    """Return the statistics of two photographs, by channel, in tiles."""
    model = build_detector(load(RealNetConfig, Path("experiments/tiny/realnet.yaml")))
    files = sorted(Path("data/tiny/images/weave/train/good").iterdir())
    images, config = ImageCache(files[:2], tiling.image_size, bits=16), FeatureConfig(normalise="channel", folds=2)
    return NormalStatistics(
        model, images, config, foreground="full", augment=augment, world=ALONE, levels_of=model.backbone, tiling=tiling
    )


def test_tiles_that_are_not_square_are_cut_from_photographs_that_were_turned(tiny):
    made = of_tiles(Tiling((64, 64), (32, 64), 0.0), augment=True)
    views = made._views(made.images[0], 0)
    assert [view.shape for view in views] == [(32, 64, 3)] * 16 and len({view.tobytes() for view in views}) == 16


@pytest.mark.parametrize(("augment", "views"), [(False, 6), (True, 24)])
def test_with_tiles_the_statistics_are_those_of_the_grids_tiles(tiny, augment, views):
    tiling = Tiling((48, 72), (32, 32), 0.25)
    made = of_tiles(tiling, augment=augment)
    assert made.fit() == Choice("channel", 0.0)
    moments = made._moments()["block1"]
    assert [fold.count for fold in moments] == [views * 8 * 8] * 2  # a sample for each place of each tile
    tiles = [tiling.cut(made.images[0], corner) for corner in tiling.corners]
    expected = made.selected(tiles)["block1"].mean(dim=(0, 2, 3))
    if not augment:
        torch.testing.assert_close(moments[0].mean()[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("most", "each"), [(8, 4), (1, 1)])
def test_of_many_tiles_as_many_of_each_photograph_are_looked_at(tiny, monkeypatch, most, each):
    monkeypatch.setattr("realnet.training.normal_statistics.MOST_TILES", most)
    made = of_tiles(Tiling((48, 72), (32, 32), 0.25))
    assert [fold.count for fold in made._moments()["block1"]] == [each * 8 * 8] * 2
    first, second = ({view.tobytes() for view in made._views(made.images[0], index)} for index in (0, 0))
    assert first == second and len(first) == each  # the same in a run that goes on


def test_a_second_detector_of_the_class_computes_no_features_again(tiny):
    store, seen = InMemory(64), []
    made = [statistics(store=store, normalise="auto", shrinkage="auto") for _ in range(2)]
    made[1].model.backbone.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    assert made[0].fit() == made[1].fit() and not seen
    alone = statistics(normalise="auto", shrinkage="auto")
    alone.fit()
    for name, module in alone.whole.items():
        for key, value in module.state_dict().items():
            torch.testing.assert_close(made[1].whole[name].state_dict()[key], value, atol=1e-5, rtol=1e-4)

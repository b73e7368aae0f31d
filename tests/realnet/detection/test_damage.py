"""Exported files that are truncated, damaged or not what they should be: one message, before a runtime opens them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from exported import needs_packages, picture

from realnet import Detector, UserError
from realnet.commands import cli
from realnet.detection import runtimes
from realnet.detection.export import export_bundle

KINDS = ("weave.onnx", "weave.xml", "weave.bin", "weave.realnet")


@pytest.fixture(scope="module")
def whole(exported, tmp_path_factory) -> Path:
    """A folder with a detector in every format."""
    folder = tmp_path_factory.mktemp("whole")
    for name in KINDS[:3]:
        shutil.copy(exported / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(exported)
        detector = Detector.load("experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth", device="cpu")
        export_bundle(detector, folder / "weave.realnet")
    return folder


@pytest.fixture
def copies(whole, tmp_path, monkeypatch) -> Path:
    shutil.copytree(whole, tmp_path / "copies")
    monkeypatch.chdir(tmp_path / "copies")
    return tmp_path / "copies"


@needs_packages
@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_lacks_its_end_or_has_another_bit_gives_no_other_result(copies, name):
    detector = "weave.xml" if name == "weave.bin" else name
    data, rng, refused = (copies / name).read_bytes(), np.random.default_rng(0), 0
    expected = Detector.load(detector, device="cpu").predict(picture())
    for length in (0, 1, 10, len(data) // 3, 2 * len(data) // 3, len(data) - 1):
        (copies / name).write_bytes(data[:length])
        with pytest.raises(UserError, match=r"weave\.(onnx|xml|bin|realnet)"):
            Detector.load(detector, device="cpu")
    places = [3, *rng.integers(0, len(data), 12), len(data) - 3]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        (copies / name).write_bytes(bytes(changed))
        try:
            found = Detector.load(detector, device="cpu").predict(picture())
        except UserError as error:
            assert "weave." in str(error)
            refused += 1
        else:  # the time of a member of the archive, say
            assert found.as_dict() == expected.as_dict()
    assert refused >= len(places) - (3 if name == "weave.realnet" else 0)


@needs_packages
def test_what_is_damaged_or_a_strangers_is_not_opened(copies, monkeypatch):
    import onnx

    network = onnx.load("weave.onnx")
    del network.metadata_props[:]
    onnx.save(network, "foreign.onnx")
    with Path("weave.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\xff" * 20)
    for name in list(runtimes.RUNTIMES):
        monkeypatch.setitem(runtimes.RUNTIMES, name, lambda _: pytest.fail("opened"))
    with pytest.raises(UserError, match=r"foreign\.onnx is no detector of this project"):
        Detector.load("foreign.onnx")
    with pytest.raises(UserError, match=r"weave\.onnx is damaged, or another detector's; copy it again"):
        Detector.load("weave.onnx")


@needs_packages
def test_the_weights_of_another_detector_are_refused(copies):
    weights = Path("weave.bin").read_bytes()
    Path("weave.bin").write_bytes(weights[:-4] + b"\0\0\x80\x3f")
    with pytest.raises(UserError, match=r"weave\.xml or weave\.bin is damaged, or another detector's"):
        Detector.load("weave.xml")
    Path("weave.bin").unlink()
    with pytest.raises(UserError, match=r"weave\.bin does not exist, which holds the weights of weave\.xml; copy both"):
        Detector.load("weave.xml")


@needs_packages
def test_the_command_says_it_and_exits_with_2(copies, capsys):
    from realnet.commands.predict import main

    Path("weave.onnx").write_bytes(Path("weave.onnx").read_bytes()[:5000])
    Path("photo.png").write_bytes(b"any")
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda _: main(["--detector", "weave.onnx", "--input", "photo.png", "--output", "found"]))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: weave.onnx is truncated or damaged (its end is missing); copy it")

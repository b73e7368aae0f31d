"""A small dataset with configs for all stages, and what a small machine needs to run the suite."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from realnet.runtime import threads

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several on the same cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
threads.spin_briefly()
hypothesis.settings.register_profile("no clock", deadline=None)
hypothesis.settings.load_profile("no clock")

ROOT = Path(__file__).resolve().parents[1]

# The statistics of the backbone are ImageNet's, as files that name none are understood (its own are others).
TINY = {
    "dataset": "image_root: data/tiny/images\nforeground: {weave: full}\n",
    "diffusion": """
        image_size: 32
        pretrained: null
        model: {channels: 32, channel_mult: [1, 1], num_res_blocks: 1, attention_resolutions: [], num_head_channels: 32}
        train: {batch_size: 2, accumulation: 2, num_steps: 4, log_interval_steps: 1, ema_decay: 0.5}
        validation: {interval_epochs: 1, num_batches: 1, respacing: ddim2}
        runtime: {num_workers: 0}
        """,
    "classifier": """
        image_size: 32
        pretrained: null
        model: {channels: 32, channel_mult: [1, 1], num_res_blocks: 1, attention_resolutions: [], num_head_channels: 32}
        train: {batch_size: 4, num_steps: 3, log_interval_steps: 1}
        runtime: {num_workers: 0}
        """,
    "sample": "{num_samples: 3, respacing: ddim2, batch_size: 2, require_ready: false, runtime: {num_workers: 0}}",
    "realnet": """
        image_size: 32
        backbone: {name: test_resnet, weights: none, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
        blocks: {block1: {levels: {layer1: 24}}, block2: {levels: {layer2: 32}}}
        reconstruction: {channel_mult: [1, 2], num_res_blocks: 1}
        rrs: {modes: {max: 8, mean: 8}}
        afs: {init_batches: 2}
        anomalies: {types: {normal: 0.5, self: 0.5}}
        train: {batch_size: 3, num_steps: 4, log_interval_steps: 1, evaluation_interval_epochs: 1}
        calibration: {num_anomalies: 8}
        runtime: {num_workers: 0, precision: fp32}
        """,
}


def load_script(name: str) -> ModuleType:
    """Import a script of the project's top folder."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_configs(folder: Path) -> None:
    folder.mkdir(parents=True)
    for stage, text in TINY.items():
        (folder / f"{stage}.yaml").write_text(text)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the dataset ``tiny``, drawn once; tests take copies."""
    from realnet.preparation.toy import make_toy_dataset

    folder = tmp_path_factory.mktemp("tiny") / "images"
    make_toy_dataset(folder, image_size=(32, 32), num_train=6, num_good=2, num_defects=1)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``exported.make``, which all workers share."""
    import fcntl

    from exported import make

    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "exported"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "weave.xml").exists():
            make(folder)
    return folder


@pytest.fixture
def tiny(tmp_path: Path, tiny_images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace, entered, with the dataset ``tiny``: two classes of 32 pixels, and YAML for every stage."""
    shutil.copytree(tiny_images, tmp_path / "data/tiny/images", copy_function=shutil.copyfile)
    write_configs(tmp_path / "experiments/tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_script(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a script's main in this process, and return what it printed."""

    def run(name: str, *arguments: str) -> str:
        load_script(name).main([*arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def published_rounding() -> Iterator[None]:
    """Round as the golden cases did: their weights amplify the rounding of one thread, or of fused attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from realnet.runtime.precision import resolve
    from tests.golden import DEVICE

    resolve("fp32", DEVICE).apply()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads, 2))
    with sdpa_kernel(SDPBackend.MATH), DEVICE:
        yield
    torch.set_num_threads(threads)

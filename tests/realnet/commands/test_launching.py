"""The README's launch over two machines: two launchers, here on one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from outcomes import FLAGS, assert_the_same, outcome
from processes import free_port


def on_two_nodes(script: str, *arguments: str, folders: tuple[Path, Path]) -> list[subprocess.CompletedProcess]:
    """Start a script by a launcher a node, and return how they ended."""
    where = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    launchers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *where,
                f"--node_rank={node}",
                str(ROOT / script),
                *arguments,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for node, folder in enumerate(folders)
    ]
    printed = [launcher.communicate(timeout=300) for launcher in launchers]
    return [
        subprocess.CompletedProcess(launcher.args, launcher.returncode, *streams)
        for launcher, streams in zip(launchers, printed, strict=True)
    ]


def test_two_nodes_make_the_weights_of_one_process(tiny, run_script):
    flags = (*FLAGS, "--set", "validation.interval_epochs=4")
    run_script("train_diffusion", *flags, "--set", "train.batch_size=4")
    alone = outcome("diffusion")
    ended = on_two_nodes("train_diffusion.py", *flags, folders=(tiny, tiny))
    assert [one.returncode for one in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    assert "ckpt_last.pth" in ended[0].stdout and not ended[1].stdout
    assert_the_same(alone, outcome("diffusion"), num_steps=4)


def test_input_that_one_node_lacks_ends_both_with_one_message_each(tiny):
    other = tiny / "other_node"
    shutil.copytree(tiny / "experiments", other / "experiments")
    ended = on_two_nodes("train_diffusion.py", *FLAGS, folders=(tiny, other))
    assert all(one.returncode for one in ended)
    assert [one.stderr.count("error: ") for one in ended] == [1, 1], ended[0].stderr + ended[1].stderr
    assert "data/tiny/images" in ended[0].stderr and "exitcode  : 2" in ended[0].stderr
    assert not (tiny / "experiments/tiny/diffusion_checkpoints").exists()

"""The README's launch over two machines, here on one: two launchers, each of another kind that people use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, load_script
from outcomes import FLAGS, assert_the_same, outcome
from processes import free_port, run_together

LAUNCHERS = ("run", "launch")
"""Of torch.distributed: ``run`` is torchrun, and ``launch`` hands each process its ``--local-rank`` too."""


def on_two_nodes(script: str, *arguments: str) -> list[subprocess.CompletedProcess]:
    """Start a script by a launcher a node, and return how they ended."""
    where = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    launchers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"torch.distributed.{launcher}",
                *where,
                f"--node_rank={node}",
                str(ROOT / script),
                *arguments,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for node, launcher in enumerate(LAUNCHERS)
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
    ended = on_two_nodes("train_diffusion.py", *flags)
    assert [one.returncode for one in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    assert "ckpt_last.pth" in ended[0].stdout and not ended[1].stdout
    assert_the_same(alone, outcome("diffusion"), num_steps=4)


def in_own_folders(*folders: Path) -> None:
    os.chdir(folders[int(os.environ["RANK"])])
    load_script("train_diffusion").main(FLAGS)


def test_input_that_one_node_lacks_ends_both_with_one_message(tiny):
    other = tiny / "other_node"
    shutil.copytree(tiny / "experiments", other / "experiments")
    ended = run_together(in_own_folders, tiny, other)
    assert [one.code for one in ended] == [2, 2], ended[0].err + ended[1].err
    assert sum(one.err.count("error: ") for one in ended) == 1, ended[0].err + ended[1].err
    assert sum("data/tiny/images" in one.err for one in ended) == 1
    assert not (tiny / "experiments/tiny/diffusion_checkpoints").exists()

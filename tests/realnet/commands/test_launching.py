"""The README's launch over two machines, here on one: two launchers, each of another kind that people use."""

import os
import shutil
import socket
from importlib import import_module
from pathlib import Path

import pytest
import torch.distributed as dist
from conftest import ROOT, load_script
from outcomes import FLAGS, assert_the_same, outcome
from processes import Ended, held_port, run_together, start_together

LAUNCHERS = ("run", "launch")
"""Of torch.distributed: ``run`` is torchrun, and ``launch`` hands each process its ``--local-rank`` too."""


def launch(node: int, port: int, *command: str) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    where = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
    launcher = import_module(f"torch.distributed.{LAUNCHERS[node]}")
    launcher.main([*where, f"--node_rank={node}", *command])


def on_two_nodes(script: str, *arguments: str) -> list[Ended]:
    """Start a script by a launcher a node, and return how they ended."""
    with held_port() as port:
        return start_together(launch, [(node, port, str(ROOT / script), *arguments) for node in range(2)])


def test_a_held_port_is_left_to_the_store_alone():
    with held_port() as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        assert dist.TCPStore("127.0.0.1", port, is_master=True).add("key", 1) == 1


def test_two_nodes_make_the_weights_of_one_process(tiny, run_script):
    flags = (*FLAGS, "--set", "validation.interval_epochs=4")
    run_script("train_diffusion", *flags, "--set", "train.batch_size=4")
    alone = outcome("diffusion")
    ended = on_two_nodes("train_diffusion.py", *flags)
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    assert "ckpt_last.pth" in ended[0].out and not ended[1].out
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

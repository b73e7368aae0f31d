"""Processes forked from one that has imported what they need, and never computed: a start costs no second import."""

import multiprocessing
from collections.abc import Callable
from contextlib import chdir
from multiprocessing.process import BaseProcess
from typing import Any

from conftest import ROOT

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch._dynamo",
        "timm",
        "torch.utils.tensorboard",
        "realnet.commands.cli",
        "realnet.training.classifier_task",
        "realnet.training.detector_task",
        "realnet.training.diffusion_task",
        "realnet.sdas.sampler",
        "realnet.reporting.class_report",
        "realnet.dry_run.plan",
    ]
)


def start(function: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Call a function of a module in a process of its own, which begins in the project's folder."""
    process = CONTEXT.Process(target=function, args=arguments)
    with chdir(ROOT):  # where the process that all are forked from, which the first one starts, finds the packages
        process.start()
    return process

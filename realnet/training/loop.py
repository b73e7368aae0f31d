"""The training loop of all stages: batches, forward and backward, step, log, validation, checkpoint."""

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from realnet import distributed, precision
from realnet.config import TrainingConfig
from realnet.distributed import Process
from realnet.errors import Stopped
from realnet.progress import console
from realnet.stopping import StopSignals
from realnet.training import state
from realnet.training.batches import batches, make_sampler, total_steps
from realnet.training.optimisation import Optimisation, learning_rate
from realnet.training.run import Run, seed_step, throughput

logger = logging.getLogger("realnet")


class Task(Protocol):
    """What a stage trains.

    Attributes:
        title: names the run in logs and progress bars.
        loss_names: of the terms that ``losses`` returns.
        validation_interval_epochs: how often ``validate`` is called; it is called after the last step too.
    """

    title: str
    loss_names: tuple[str, ...]
    validation_interval_epochs: int

    def subject(self) -> Mapping[str, Any]:
        """Return what is trained on what: plain values by their names in words."""
        ...

    def parameters(self) -> list[Tensor]:
        """Return what the optimiser trains."""
        ...

    def begin(self) -> None:
        """Do what comes once before the first step; not called when a run goes on.

        Raises:
            UserError: where the run cannot start; nothing is written yet.
        """
        ...

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the weighted terms (K,) of a micro-batch's loss, which is their sum."""
        ...

    def after_step(self) -> None:
        """Follow an optimiser step (averages of the weights)."""
        ...

    def validate(self, step: int, run: Run) -> None:
        """Look at the network after ``step`` steps; called on every process."""
        ...

    def state(self) -> Mapping[str, Any]:
        """Return what the task needs to go on, the optimiser apart."""
        ...

    def restore(self, stored: Mapping[str, Any], source: str) -> None:
        """Take back what ``state`` returned."""
        ...

    def save(self, path: Path, step: int, epoch: int) -> None:
        """Write the weights for use; called on rank 0."""
        ...


def fit(
    task: Task,
    dataset: Dataset,
    config: TrainingConfig,
    process: Process,
    *,
    last: Path,
    log_folder: Path,
    resume: bool = True,
) -> None:
    """Train a task to its end, or until a signal; go on from the last state where there is one.

    Args:
        task: the networks and their losses.
        dataset: training items, by (epoch, index).
        config: of the stage.
        process: this process.
        last: where the weights for use go; the training state lies beside it.
        log_folder: where the logs go.
        resume: go on from the last state; otherwise start anew.

    Raises:
        UserError: for settings, data or weights other than those of the part of the run that is done.
        Stopped: after a signal; the step at hand is done and saved.
    """
    state_path = state.path_of(last)
    sampler = make_sampler(dataset, config.train, process, seed=config.seed)  # type: ignore[arg-type]  # it has a length
    identity = state.identity(config, sampler, task.subject())
    stored = state.load(state_path, identity) if resume else None
    start_step = sampler.start_step = stored["step"] if stored else 0
    state.require_agreement({"steps done": start_step, **identity})
    num_steps = total_steps(config.train, sampler)
    number_format = precision.resolve(config.runtime.precision, process.device)
    optimisation = Optimisation(task.parameters(), config.optimiser, num_steps=num_steps, precision=number_format)
    if stored:
        task.restore(stored["task"], str(state_path))
        optimisation.load_state_dict(stored["optimisation"])

    def save(step: int) -> None:
        if process.is_main:
            task.save(last, step, sampler.epoch_of(step))
            # last: whoever is killed before this point repeats the steps since the state that is there
            parts = {"task": dict(task.state()), "optimisation": optimisation.state_dict()}
            state.save(state_path, step, identity, parts)

    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        if not stored:
            with console(process.is_main):
                task.begin()
            if process.is_main:
                state.discard(state_path)
        run = stack.enter_context(Run(log_folder, process, config=config, start_step=start_step, stop=stop))
        logger.info("%s: %d training images, step %d of %d", task.title, sampler.num_items, start_step, num_steps)
        feed = batches(dataset, sampler, config.runtime, process)
        totals, since, count = torch.zeros(len(task.loss_names), device=process.device), time.perf_counter(), 0
        done = start_step
        for step in run.steps(num_steps, task.title):
            # forward and backward
            seed_step(config.seed, process.rank, step)
            for _ in range(config.train.accumulation):
                batch = next(feed)
                with number_format.autocast():
                    losses = task.losses(batch)
                optimisation.backward(losses.sum() / config.train.accumulation)
                totals += losses.detach() / config.train.accumulation

            # step
            optimisation.step(step)
            task.after_step()
            done, count = step + 1, count + 1

            # log
            is_last = done == num_steps
            if is_last or done % config.train.log_interval_steps == 0:
                means = distributed.mean(totals / count).tolist()
                values = {f"loss/{name}": value for name, value in zip(task.loss_names, means, strict=True)}
                values |= {"loss": sum(means), "learning_rate": learning_rate(config.optimiser, step, num_steps)}
                run.scalars(done, values | throughput(process, since, count * sampler.global_batch))
                totals, since, count = torch.zeros_like(totals), time.perf_counter(), 0

            # validate
            if is_last or done % (task.validation_interval_epochs * sampler.steps_per_epoch) == 0:
                task.validate(done, run)
                totals, since, count = torch.zeros_like(totals), time.perf_counter(), 0

            # save
            if is_last or run.stopping or done % config.train.checkpoint_interval_steps == 0:
                save(done)
        if start_step >= num_steps:
            logger.info("%s: all %d steps are done already; --no-resume starts anew", task.title, num_steps)
        if distributed.any_process(stop.asked):
            logger.info("stopped after step %d of %d; the same command goes on from there", done, num_steps)
            raise Stopped

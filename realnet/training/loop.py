"""The training loop of all stages: batches, forward and backward, step, log, validation, checkpoint."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from realnet.config import TrainingConfig
from realnet.errors import Stopped, UserError
from realnet.models import checkpoint
from realnet.runtime import distributed
from realnet.runtime.distributed import World
from realnet.training import state
from realnet.training.batches import batches, make_order, total_steps
from realnet.training.logs import Run, seed_step, throughput
from realnet.training.optimisation import Optimisation, learning_rate

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
            Stopped: after a signal, on all processes alike.
        """
        ...

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the weighted terms (K,) of a micro-batch's loss, which is their sum."""
        ...

    def after_step(self) -> None:
        """Follow an optimiser step (averages of the weights)."""
        ...

    def validate(self, step: int, run: Run) -> bool:
        """Look at the network after ``step`` steps; called on every process.

        Returns:
            Whether it was done: False, on all processes alike and without a trace, where a signal came in between.
        """
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

    def finish(self, path: Path) -> None:
        """Complete the weights for use after the last step; called on every process."""
        ...


def fit(
    task: Task,
    dataset: Dataset,
    config: TrainingConfig,
    world: World,
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
        world: this process.
        last: where the weights for use go; the training state lies beside it.
        log_folder: where the logs go.
        resume: go on from the last state; otherwise start anew.

    Raises:
        UserError: for settings, data or weights other than those of the part of the run that is done; where the loss
            or a weight is not a number any more.
        Stopped: after a signal; what is done is saved.
    """
    with Run(log_folder, world) as run:
        # begin, or take up the last state
        order = make_order(dataset, config.train, world, seed=config.seed)  # type: ignore[arg-type]  # has a length
        num_steps = total_steps(config.train, order)
        identity, state_path = state.identity(config, order, task.subject()), state.path_of(last)
        stored = state.load(state_path, identity, state.defaults_of(config)) if resume else None
        done = saved = order.start_step = stored["step"] if stored else 0
        state.require_agreement({"steps done": done, **identity})
        optimisation = Optimisation(task.parameters(), config.optimiser, num_steps=num_steps, precision=world.precision)
        if stored:
            task.restore(stored["task"], str(state_path))
            optimisation.load_state_dict(stored["optimisation"])
        else:
            task.begin()
            if world.is_main:
                state.discard(state_path)
        validated = not stored or stored["validated"]
        run.open(config, done, validated=validated)

        def save() -> None:
            nonlocal saved
            if distributed.any_process(not _are_finite(totals, *task.parameters())):
                raise _diverged(done, saved, config)
            if world.is_main:
                task.save(last, done, order.epoch_of(done))
                # last: whoever is killed before this point repeats the steps since the state that is there
                parts = {"validated": validated, "task": dict(task.state()), "optimisation": optimisation.state_dict()}
                state.save(state_path, done, identity, parts, keep_previous=done > saved)
            saved = done

        def stopped() -> Stopped:
            return Stopped(f"stopped after step {done} of {num_steps}; the same command goes on from there")

        logger.info("%s: %d training images, step %d of %d", task.title, order.num_items, done, num_steps)
        totals, since, count = torch.zeros(len(task.loss_names), device=world.device), time.perf_counter(), 0
        has_validated = False
        if not validated:
            validated = has_validated = task.validate(done, run)
            if not validated:
                raise stopped()
            save()
        if done >= num_steps:
            logger.info("%s: all %d steps are done already; --no-resume starts anew", task.title, num_steps)
            if world.is_main and not checkpoint.is_whole(last):
                logger.info("%s was lost or damaged; it is written again from the state", last)
                task.save(last, done, order.epoch_of(done))
        feed = batches(dataset, order, config.runtime, world)
        for step in run.steps(done, num_steps, task.title):
            # forward and backward
            seed_step(config.seed, world.rank, step)
            for _ in range(config.train.accumulation):
                batch = next(feed)
                with world.precision.autocast():
                    losses = task.losses(batch)
                optimisation.backward(losses.sum() / config.train.accumulation)
                totals += losses.detach() / config.train.accumulation

            # step
            optimisation.step(step)
            task.after_step()
            done, count = step + 1, count + 1
            is_last, stopping = done == num_steps, distributed.any_process(world.stop.asked)

            # log
            if is_last or done % config.train.log_interval_steps == 0:
                means = distributed.mean(totals / count).tolist()
                if not all(map(math.isfinite, means)):
                    raise _diverged(done, saved, config)
                values = {f"loss/{name}": value for name, value in zip(task.loss_names, means, strict=True)}
                values |= {"loss": sum(means), "learning_rate": learning_rate(config.optimiser, step, num_steps)}
                run.scalars(done, values | throughput(world, since, count * order.global_batch))
                totals, since, count = torch.zeros_like(totals), time.perf_counter(), 0

            # validate: the first time what is done is saved before, as it may fail
            validated = not (is_last or done % (task.validation_interval_epochs * order.steps_per_epoch) == 0)
            if not (validated or stopping):
                if not has_validated:
                    save()
                validated = has_validated = task.validate(done, run)
                stopping = not validated
                totals, since, count = torch.zeros_like(totals), time.perf_counter(), 0

            # save
            if is_last or stopping or done % config.train.checkpoint_interval_steps == 0:
                save()
            if stopping:
                raise stopped()
        task.finish(last)
        if distributed.any_process(world.stop.asked):
            raise stopped()


def _are_finite(*tensors: Tensor) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _diverged(step: int, saved: int, config: TrainingConfig) -> UserError:
    kept = f"what is saved is of step {saved}" if saved else "nothing is saved"
    return UserError(
        f"the training has diverged: at step {step} the loss or a weight is not a number any more; {kept}. Start anew "
        f"with --no-resume and a lower optimiser.learning_rate (it is {config.optimiser.learning_rate:g}), or with "
        f"optimiser.max_grad_norm (it is {config.optimiser.max_grad_norm}) or runtime.precision=fp32"
    )

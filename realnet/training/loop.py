"""The training loop of all stages: batches, forward and backward, step, log, validation, checkpoint.

See docs/method.md, Diffusion training.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from realnet.config import TrainingConfig
from realnet.errors import Stopped, UserError, message_of
from realnet.models import checkpoint
from realnet.runtime import contents, distributed
from realnet.runtime.distributed import World
from realnet.runtime.lock import one_run
from realnet.training import state
from realnet.training.batches import batches, make_order, total_steps
from realnet.training.logs import Run, seed_step, throughput
from realnet.training.optimisation import Optimisation, learning_rate

logger = logging.getLogger("realnet")


class Task(Protocol):
    """The networks, losses and validation of a stage.

    Attributes:
        title: name of the run in logs and progress bars.
        loss_names: names of the terms that ``losses`` returns.
        validation_interval_epochs: number of epochs between calls of ``validate``, which also follows the last step.
    """

    title: str
    loss_names: tuple[str, ...]
    validation_interval_epochs: int

    def subject(self) -> Mapping[str, Any]:
        """Describe what is trained, and on which data: plain values by their names in words."""
        ...

    def parameters(self) -> list[Tensor]:
        """Return the tensors that the optimiser trains."""
        ...

    def begin(self) -> None:
        """Prepare the first step; not called in a continued run.

        Raises:
            UserError: if the run cannot start; nothing is written yet.
            Stopped: after a signal, on all processes.
        """
        ...

    def losses(self, batch: dict[str, Any]) -> Tensor:
        """Return the weighted terms (K,) of a micro-batch's loss; the loss is their sum."""
        ...

    def after_step(self) -> None:
        """Do what follows each optimiser step, for example update an average of the weights."""
        ...

    def validate(self, step: int, run: Run) -> bool:
        """Validate the network after ``step`` steps; called on every process.

        Returns:
            Whether validation is done. After a signal, False on all processes, and nothing has been logged or changed.
        """
        ...

    def is_done(self) -> bool:
        """Tell whether the last validation makes further steps needless; called on every process, which then agree."""
        ...

    def state(self) -> Mapping[str, Any]:
        """Return what the task needs to continue, except the optimiser's state."""
        ...

    def restore(self, stored: Mapping[str, Any], source: str) -> None:
        """Restore what ``state`` returned; errors name ``source``."""
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
    """Train a task to its end or until a signal, from the last saved state if there is one.

    Args:
        task: the networks and their losses.
        dataset: training items, by (epoch, index).
        config: of the stage.
        world: this process.
        last: the file for the weights for use; the training state is saved beside it.
        log_folder: the folder of the logs.
        resume: continue from the last state; if False, start from step 0.

    Raises:
        UserError: for settings, data or weights other than in the earlier part of this run, if another run holds the
            folder, if an image cannot be read (the finished steps are saved), or if the loss or a weight becomes NaN or
            infinite.
        Stopped: after a signal; the finished steps are saved.
    """
    with Run(log_folder, world) as run, one_run(last.parent, world):
        # begin, or continue from the last state
        items = cast(Sized, dataset)
        order = make_order(items, config.train, world, seed=config.seed, draws=config.draws)
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
        del stored  # its tensors are mapped from a file that the next save replaces
        run.open(config, done, validated=validated)
        if world.is_main:
            contents.keep(last.parent)

        def save() -> None:
            nonlocal saved
            if distributed.any_process(not _are_finite(totals, *task.parameters())):
                raise _diverged(done, saved, config)
            if world.is_main:
                task.save(last, done, order.epoch_of(done))
                # save the state last: after a kill before this point, the run repeats the steps since the older state
                parts = {"validated": validated, "task": dict(task.state()), "optimisation": optimisation.state_dict()}
                state.save(state_path, done, identity, parts, keep_previous=done > saved)
            saved = done

        def stopped() -> Stopped:
            return Stopped(f"stopped after step {done} of {num_steps}; run the same command again to continue")

        logger.info("%s: %d training images, step %d of %d", task.title, order.num_items, done, num_steps)
        totals, since, count = torch.zeros(len(task.loss_names), device=world.device), time.perf_counter(), 0
        has_validated = False
        if not validated:
            validated = has_validated = task.validate(done, run)
            if not validated:
                raise stopped()
            save()
        if done and task.is_done():
            num_steps = min(num_steps, done)
        if done >= num_steps:
            logger.info("%s: all %d steps are already done; --no-resume starts again", task.title, num_steps)
            if world.is_main and not checkpoint.is_whole(last):
                logger.info("%s was lost or damaged; writing it again from the training state", last)
                task.save(last, done, order.epoch_of(done))
        feed = batches(dataset, order, config.runtime, world)
        for step in run.steps(done, num_steps, task.title):
            # read
            batches_of_step, failure = _read(feed, config.train.accumulation)
            if distributed.any_process(failure is not None):
                if done > saved:
                    save()
                with distributed.refusing_together():
                    if failure:
                        raise UserError(f"{message_of(failure)}; {_kept(saved)}, and the same command continues")

            # forward and backward
            seed_step(config.seed, world.rank, step)
            for left, batch in zip(range(len(batches_of_step))[::-1], batches_of_step, strict=True):
                with world.precision.autocast():
                    losses = task.losses(batch)
                optimisation.backward(losses.sum() / config.train.accumulation, is_last=left == 0)
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

            # validate; save before the first validation, because it may fail, or else when it has failed
            validated = not (is_last or done % (task.validation_interval_epochs * order.steps_per_epoch) == 0)
            is_done = False
            if not (validated or stopping):
                if not has_validated:
                    save()
                try:
                    validated = has_validated = task.validate(done, run)
                except UserError:
                    if done > saved:
                        save()
                    raise
                stopping, is_done = not validated, validated and task.is_done()
                totals, since, count = torch.zeros_like(totals), time.perf_counter(), 0

            # save
            if is_last or is_done or stopping or done % config.train.checkpoint_interval_steps == 0:
                save()
            if stopping:
                raise stopped()
            if is_done:
                logger.info("%s: training ends after step %d of at most %d", task.title, done, num_steps)
                break
        task.finish(last)
        if distributed.any_process(world.stop.asked):
            raise stopped()


def _read(feed: Iterator[dict[str, Any]], number: int) -> tuple[list[dict[str, Any]], UserError | None]:
    """Return a step's micro-batches; in their place the error, if a file cannot be read."""
    try:
        return [next(feed) for _ in range(number)], None
    except UserError as error:
        return [], error.with_traceback(None)  # whose frames would keep the loader, and so its workers, alive


def _kept(saved: int) -> str:
    return f"the saved state is of step {saved}" if saved else "nothing is saved"


def _are_finite(*tensors: Tensor) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def _diverged(step: int, saved: int, config: TrainingConfig) -> UserError:
    return UserError(
        f"the training has diverged: at step {step} the loss or a weight is NaN or infinite; {_kept(saved)}. Start "
        f"again with --no-resume and a lower optimiser.learning_rate (it is {config.optimiser.learning_rate:g}), a "
        f"lower optimiser.max_grad_norm (it is {config.optimiser.max_grad_norm}) or runtime.precision=fp32"
    )

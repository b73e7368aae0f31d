"""Make an optimiser step from one or more micro-batches on one or more processes.

See docs/method.md, Diffusion training.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from realnet.config import OptimiserConfig
from realnet.runtime.precision import Precision
from realnet.training.exchange import GradientExchange

FINAL_FRACTION = 0.01  # of the learning rate, left at the end of the cosine schedule


def learning_rate(config: OptimiserConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of step ``step`` (0-based) of ``num_steps``."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.learning_rate * warmup
    cosine = 0.5 * (1 + math.cos(math.pi * min(step / num_steps, 1.0)))
    return config.learning_rate * warmup * (FINAL_FRACTION + (1 - FINAL_FRACTION) * cosine)


class Optimisation:
    """Adam over the trainable parameters, with averaged, clipped and (in fp16) scaled gradients."""

    def __init__(
        self, parameters: Iterable[Tensor], config: OptimiserConfig, *, num_steps: int, precision: Precision
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.config, self.num_steps = config, num_steps
        self.adam = torch.optim.Adam(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=precision.device.type in {"cpu", "cuda"},
        )
        self.scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.needs_scaler)
        self.exchange = GradientExchange(self.parameters)

    def backward(self, loss: Tensor, *, is_last: bool = True) -> None:
        """Add the gradients of one micro-batch's share of the loss.

        With those of the step's last micro-batch, their exchange between the processes begins.
        """
        if is_last:
            self.exchange.begin()
        self.scaler.scale(loss).backward()

    def step(self, step: int) -> None:
        """Await the gradients' means over the processes, clip them, and take step number ``step`` (0-based)."""
        self.exchange.finish()
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(self.config, step, self.num_steps)
        if self.config.max_grad_norm is not None:
            self.scaler.unscale_(self.adam)
            nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.scaler.step(self.adam)
        self.scaler.update()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimiser and scaler."""
        return {"adam": self.adam.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a copy of what :meth:`state_dict` returned, in the memory layout that the parameters have now.

        Without a scaler's state, the scaler keeps its initial one.
        """
        self.adam.load_state_dict(state["adam"])
        for parameter, values in self.adam.state.items():
            for name, value in values.items():  # Adam takes each moment to lie in memory as its parameter does
                values[name] = value.clone() if name == "step" else torch.empty_like(parameter).copy_(value)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


class EMA:
    """The exponential moving average of a network's parameters and buffers: θ' ← decay·θ' + (1 - decay)·θ.

    See docs/method.md, Diffusion training.
    """

    def __init__(self, model: nn.Module, decay: float, *, on_cpu: bool = False) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.device = torch.device("cpu") if on_cpu else next(model.parameters()).device
        self.model.to(self.device)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards the network."""
        averaged = self.model.state_dict()
        current = {key: value.to(self.device) for key, value in model.state_dict().items()}
        floating = [key for key, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[k] for k in floating], [current[k] for k in floating], 1 - self.decay)
        for key in averaged.keys() - floating:  # counters have no average
            averaged[key].copy_(current[key])

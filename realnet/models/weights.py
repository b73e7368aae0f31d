"""Weights of a backbone from files."""

import re
from pathlib import Path

from torch import Tensor, nn

from realnet.errors import UserError
from realnet.models import checkpoint


def load_file(extractor: nn.Module, path: Path, name: str) -> None:
    """Load a state dict of the whole model or of its feature levels; what it holds beyond them is not needed.

    Raises:
        UserError: where the file is absent, no file of weights, or of another model; lists the tensors that differ.
    """
    if not path.is_file():
        raise UserError(f"backbone.weights: {path} does not exist; give {name}'s state dict, 'hub' or 'none'")
    stored = {key.removeprefix("module."): value for key, value in _read_tensors(path).items()}
    wanted = extractor.state_dict()
    chosen = {key: next((stored[other] for other in _names(key) if other in stored), None) for key in wanted}
    wrong = [
        f"{key}: {'missing' if value is None else tuple(value.shape)}, needed {tuple(wanted[key].shape)}"
        for key, value in chosen.items()
        if (value is None or value.shape != wanted[key].shape) and not key.endswith("num_batches_tracked")
    ]
    if wrong:
        listed = "\n  ".join(wrong[:10] + ([f"… and {len(wrong) - 10} more"] if len(wrong) > 10 else []))
        raise UserError(f"{path} does not hold the weights of {name}; give its own state dict:\n  {listed}")
    extractor.load_state_dict({key: value for key, value in chosen.items() if value is not None}, strict=False)


def _names(key: str) -> tuple[str, ...]:
    """Return the names that a tensor of an extractor may have in its model: timm flattens ``stages.0``, or wraps it."""
    return key, re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", key), key.removeprefix("model.")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_safetensors

        try:
            return load_safetensors(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no complete safetensors file ({error}); download it again") from error
    stored = checkpoint.read(path, mapped=True)
    stored = stored.get("state_dict", stored)
    return {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}

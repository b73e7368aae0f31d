"""Features of a frozen backbone, computed once for all detectors that see the same image with it.

See docs/method.md, Known features.
"""

import copy
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from realnet.errors import UserError
from realnet.models import checkpoint
from realnet.models.backbone import Backbone
from realnet.runtime.files import whole
from realnet.runtime.packing import PackedConvolution, unpack_convolutions
from realnet.runtime.precision import in_float32

logger = logging.getLogger("realnet")

SUFFIX, PARTS_KEPT_SECONDS = ".features", 24 * 3600
"""Of the files, and how long a half-written one may belong to a process that still runs."""


class Store(ABC):
    """Bytes by their keys, within a budget (docs/method.md, Known features)."""

    def __init__(self, budget_mib: int) -> None:
        self.budget = budget_mib * 2**20

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return what was kept; None if it was not, or is damaged."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Keep bytes, if the budget allows."""


class InMemory(Store):
    """Bytes that go with the process; new ones take the place of the oldest (docs/method.md, Known features)."""

    def __init__(self, budget_mib: int) -> None:
        super().__init__(budget_mib)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def get(self, key: str) -> bytes | None:
        """Return what was kept."""
        return self._kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        """Keep bytes."""
        self._size += len(data) - len(self._kept.pop(key, b""))
        self._kept[key] = data
        while self._size > self.budget:
            self._size -= len(self._kept.popitem(last=False)[1])


class InFiles(Store):
    """Bytes in a file each, which later commands find and several processes may share.

    A file holds a checksum of its key and of its bytes, so one that is damaged, cut short or another's counts as none.
    Once the folder is full, or cannot be written, new bytes are not kept (docs/method.md, Known features).

    Args:
        folder: the folder; it is made when it is first needed.
        budget_mib: most disk space to use; processes that write at once may exceed it by what each of them adds.
    """

    def __init__(self, folder: Path, budget_mib: int) -> None:
        super().__init__(budget_mib)
        self.folder = folder
        self._warned = False
        self._room = self.budget - sum(self._sizes())

    def get(self, key: str) -> bytes | None:
        """Return what was kept; None if it was not, or is damaged."""
        try:
            stored = self._file(key).read_bytes()
        except OSError:
            return None
        if stored[:32] == _digest(key, stored[32:]):
            return stored[32:]
        logger.warning("WARNING: %s is damaged or another's; its features are computed anew", self._file(key))
        return None

    def put(self, key: str, data: bytes) -> None:
        """Keep bytes, if there is room."""
        if len(data) > self._room:
            self._warn(f"{self.folder} is full ({self.budget / 2**20:.0f} MiB); delete it, or set features_mib higher")
            return
        try:
            with whole(self._file(key)) as part:
                part.write_bytes(_digest(key, data) + data)
            self._room -= len(data)
        except UserError as error:
            self._warn(str(error))
            self._room = 0

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _sizes(self) -> list[int]:
        """Return the files' sizes; half-written ones of processes that were killed are removed."""
        found = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                facts = path.stat()
                if path.suffix == ".part" and time.time() - facts.st_mtime > PARTS_KEPT_SECONDS:
                    path.unlink()
                found.append(facts.st_size)
        return found

    def _warn(self, text: str) -> None:
        if not self._warned:
            logger.warning("WARNING: features are not kept: %s", text)
        self._warned = True


@cache
def store_of(budget_mib: int, folder: Path | None = None) -> Store | None:
    """Return this process's store: in a folder's files or, without one, in memory; None for no budget.

    See docs/method.md, Known features.
    """
    if not budget_mib:
        return None
    return InFiles(folder, budget_mib) if folder else InMemory(budget_mib)


class KnownFeatures:
    """Levels of images by a backbone, in float32; on a CPU those of an image are computed once.

    They are the backbone's to the last bit, in the usual memory layout. Batches of which an image is unknown are
    computed as a whole (docs/method.md, Known features).

    Args:
        backbone: frozen, and already where and as it will be used.
        levels: names of the levels that are needed.
        store: keeps them; None computes them each time.
    """

    def __init__(self, backbone: Backbone, levels: Sequence[str], store: Store | None) -> None:
        self.backbone, self.levels, self.store = backbone, tuple(dict.fromkeys(levels)), store

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Map ImageNet-normalised images (B, 3, H, W) to levels (B, channels, h, w), by name."""
        if self.store is None or images.device.type != "cpu":
            return self._computed(images)
        keys = [self._key(image) for image in images]
        found = [self.store.get(key) for key in keys]
        parts = [load(data) for data in found if data is not None]
        if len(parts) == len(images):
            return {name: torch.stack([part[name] for part in parts]) for name in self.levels}
        computed = {name: features.contiguous() for name, features in self._computed(images).items()}
        for number, (key, data) in enumerate(zip(keys, found, strict=True)):
            if data is None:
                self.store.put(key, save({name: features[number].clone() for name, features in computed.items()}))
        return computed

    def _computed(self, images: Tensor) -> dict[str, Tensor]:
        found = in_float32(self.backbone, images)
        return {name: found[name].float() for name in self.levels}

    def _key(self, image: Tensor) -> str:
        """Return a checksum of all that decides an image's features."""
        pixels = image.contiguous().numpy()
        return hashlib.sha256(f"{self._maker} {pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()

    @cached_property
    def _maker(self) -> str:
        """Return what makes the features, as text: weights, levels, and what decides how numbers are rounded."""
        backbone, made_by = self.backbone, {**checkpoint.versions(), "torchvision": version("torchvision")}
        is_packed = any(isinstance(module, PackedConvolution) for module in backbone.modules())
        if is_packed:  # their weights are in no state dict
            backbone = copy.deepcopy(backbone)
            unpack_convolutions(backbone)
        how = f"packed: {is_packed}, compiled: {self.backbone._compiled_call_impl is not None}, cpu, float32"
        levels = [level for level in backbone.listed_levels() if level[0] in self.levels]
        return f"{backbone.name}, {backbone.identity()}, {levels}, {how}, {made_by}"


def _digest(key: str, data: bytes) -> bytes:
    return hashlib.sha256(key.encode() + data).digest()

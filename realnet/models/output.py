"""What the detector gives for images (docs/method.md, Detector)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Detection:
    """The detector's output for images (B, 3, H, W) (docs/method.md, Detector).

    Attributes:
        logits: (B, 2, H, W).
        selected: the features that AFS selects, (B, C, h, w) by block.
        reconstructed: the reconstruction of ``selected``, by block.
        residuals: (selected - reconstructed)², by block, float32.
        chosen: the channels (B, k) that RRS selects, by mode.
        fused: the fused anomaly map (B, 1, H, W); None for a detector without fusion.
        scored: the map (B, 1, H, W) that the image score is taken from; None if it is the anomaly map.
        classes: the numbers (B,) of the classes that the images are judged as; None for a detector of one class, or one
            to which all classes are alike.
    """

    logits: Tensor
    selected: Mapping[str, Tensor]
    reconstructed: Mapping[str, Tensor]
    residuals: Mapping[str, Tensor]
    chosen: Mapping[str, Tensor]
    fused: Tensor | None = None
    scored: Tensor | None = None
    classes: Tensor | None = None

    @property
    def anomaly_map(self) -> Tensor:
        """Return the anomaly map (B, 1, H, W) in [0, 1]: ``fused``, or without fusion channel 1 of the softmax."""
        return self.logits.softmax(dim=1)[:, 1:] if self.fused is None else self.fused

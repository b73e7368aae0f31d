"""RealNet (CVPR 2024): detectors of industrial image anomalies, trained on synthetic ones.

>>> from realnet import Detector
>>> detector = Detector.load("experiments/toy/realnet_checkpoints/weave/ckpt_last.pth")
>>> detector.predict("picture.png").verdict
'normal'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realnet.detector import Detector, Prediction

__all__ = ["Detector", "Prediction"]


def __getattr__(name: str) -> Any:
    """Import what a user asks for when it is asked for: ``import realnet`` alone stays light (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from realnet import detector

    return getattr(detector, name)

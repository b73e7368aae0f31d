"""RealNet (CVPR 2024): detectors of industrial image anomalies, trained on synthetic ones.

>>> from realnet import Detector
>>> detector = Detector.load("experiments/toy/realnet_checkpoints/weave/ckpt_last.pth")
>>> detector.predict("picture.png").verdict
'normal'

An input, a file or a setting that cannot be used raises ``UserError``; its message says how to repair it.
"""

from typing import TYPE_CHECKING, Any

from realnet.errors import UserError, advice_on

if TYPE_CHECKING:
    from realnet.detection.detector import Detector, Prediction

__all__ = ["Detector", "Prediction", "UserError"]
__version__ = "1.0.0"


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import realnet`` alone stays light (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from realnet.detection import detector
    except ImportError as error:
        advice = advice_on(error)
        if advice is None:
            raise
        raise UserError(advice) from error
    return getattr(detector, name)

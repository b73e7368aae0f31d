"""Tell whether detectors differ in their seed alone, and what each of them chose by itself."""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from realnet.detection.checkpoints import Protocol
from realnet.detection.one_class import STATISTICS
from realnet.models.checkpoint import Checkpoint
from realnet.models.normal import SIGNALS

FREE_KEYS = (
    *("seed", "preset", "runtime.", "evaluation.", "backbone.weights", "train.num_", "train.evaluation"),
    *("train.checkpoint_interval", "train.log_interval", "features.normalise", "features.shrinkage"),
)
"""What may differ between detectors that are compared: how long they were trained shows in their step, the backbone's
weights in its checksum, and what was asked of the features in the identity of the run."""
CHOSEN = ("features.normalise", "features.shrinkage", "evaluation.score_pool")
"""What ``auto`` lets each detector choose."""


def made_with(stored: Checkpoint, protocol: Protocol) -> dict[str, str]:
    """Return what detectors that are compared have in common: settings, steps, images, sources and backbone.

    The best checkpoint on the test split may be of any step.
    """
    settings = {key: value for key, value in _flat(stored.config or {}) if not key.startswith(FREE_KEYS)}
    images = hashlib.sha256(repr(stored.facts.get("training_images")).encode()).hexdigest()[:8]
    whole = {
        **settings,
        **stored.facts.get("identity", {}),
        **({} if protocol == "best" else {"steps": stored.facts.get("step")}),
        "digest of the training images": images,
        "checksum of the backbone": stored.facts.get("backbone", {}).get("checksum"),
    }
    return {key: str(value) for key, value in whole.items()}


def chosen_by(stored: Checkpoint) -> dict[str, str]:
    """Return what a detector chose by itself, where it was asked to: normalisation, score pool and joined signals."""
    settings, by_class = dict(_flat(stored.config or {})), stored.facts.get(STATISTICS, {})
    found = {key: str(settings[key]) for key in CHOSEN if key in settings}
    found |= {f"features of {name}": " ".join(map(str, one.values())) for name, one in by_class.items()}
    places = {f"fusion.{number}.": f" of {name}" for number, name in enumerate(by_class)} or {"fusion.": ""}
    for prefix, of_what in places.items():
        for what, name in {"signals of the map": "weights", "signals of the score": "score_weights"}.items():
            if (weights := stored.state_dict.get(f"{prefix}{name}")) is not None:
                used = (one for one, weight in zip(SIGNALS, weights.tolist(), strict=False) if weight)
                found[f"{what}{of_what}"] = " + ".join(used)
    return found


def difference(made: Mapping[int | None, Mapping[str, str]]) -> str:
    """Return in what more than the seed detectors differ, by seed (:func:`made_with`); "" if in nothing."""
    keys = dict.fromkeys(key for values in made.values() for key in values)
    for (first, ours), (other, theirs) in pairwise(made.items()):
        values = [(key, ours.get(key, "none"), theirs.get(key, "none")) for key in keys]
        differing = [f"{key} {one} and {another}" for key, one, another in values if one != another]
        if differing:
            what = "; ".join(differing) if ours and theirs else "an earlier version evaluated one; use --no-resume"
            return (
                f"the detectors of seeds {first} and {other} differ in more than the seed ({what}), so their spread "
                "means nothing; train them by one command: --seeds, with --no-resume where they are outdated"
            )
    return ""


def different_choices(chosen: Mapping[int, Mapping[str, str]]) -> str:
    """Return what detectors chose differently, by seed (:func:`chosen_by`); "" if nothing."""
    keys = dict.fromkeys(key for values in chosen.values() for key in values)
    found = {key: {seed: values.get(key, "none") for seed, values in chosen.items()} for key in keys}
    texts = (
        f"{key} {', '.join(f'{value} (seed {seed})' for seed, value in values.items())}"
        for key, values in found.items()
        if len(set(values.values())) > 1
    )
    return "; ".join(texts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

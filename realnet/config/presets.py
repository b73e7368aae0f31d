"""Named sets of defaults, from which a config file may start instead of the published ones."""

from collections.abc import Mapping
from typing import Any, cast

from realnet.config.base import Section

DETECTOR_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "cpu": {
        "backbone": {"name": "tf_efficientnet_lite0", "weights": "package"},
        "size": "small",
        "blocks": {"joined": {"levels": {"layer2": "all", "layer3": "all", "layer4": "all"}, "stride": 8}},
        "afs": {"init_batches": 1},  # all channels are kept
        "features": {"normalise": "auto"},
        "detector": {"fuse": {"position": True, "deep": True, "memory": 8192}},
        "rrs": {"modes": {"max": 64, "mean": 64}},
        "reconstruction": {"channel_mult": "auto", "num_res_blocks": 1, "num_head_channels": "auto"},
        "anomalies": {
            "types": {"normal": 0.5, "self": 0.5},
            "min_perlin_scale": 2,
            "max_regions": 8,
            "min_contrast": 8,
        },
        "optimiser": {"learning_rate": 5e-4, "schedule": "cosine", "warmup_steps": 20},
        "train": {
            "batch_size": 8,
            "num_steps": 200,
            "evaluation_interval_epochs": 1000,
            "checkpoint_interval_steps": 100,
        },
        "calibration": {"holdout_fraction": 0.1},
        "evaluation": {"score_pool": "auto"},
        "runtime": {"num_workers": 1},
    },
}
"""``cpu``: a small backbone, features measured by what is normal, minutes of training without a diffusion model."""


def with_preset(model: type[Section], values: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's values with a preset's where the file names none.

    Sections are joined, but for one that names something else (``backbone.name``); all else is replaced. The preset's
    blocks are those of its own backbone: another one's follow from its levels.
    """
    if "name" in (values.get("backbone") or {}):
        preset = {key: value for key, value in preset.items() if key != "blocks"}
    joined = {**preset, **values}
    for key in preset.keys() & values.keys():
        section = model.model_fields[key].annotation
        is_section = isinstance(section, type) and issubclass(section, Section)
        if is_section and isinstance(values[key], Mapping) and "name" not in values[key]:
            joined[key] = with_preset(cast(type[Section], section), values[key], preset[key])
    return joined

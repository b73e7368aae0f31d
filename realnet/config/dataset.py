"""The config of a dataset."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from realnet.config.base import ClassName, Section


class ForegroundRule(Section):
    """How to find a class's foreground: threshold a channel, then apply square morphology (sides in pixels).

    See docs/method.md, Foreground.
    """

    channel: Literal["grey", "red", "green", "blue"] = "grey"
    threshold: Literal["otsu", "triangle"] = "otsu"
    polarity: Literal["bright", "dark"] = "bright"
    close: int = Field(0, ge=0)
    open: int = Field(0, ge=0)


Foreground = Literal["full", "auto"] | ForegroundRule


class DatasetConfig(Section):
    """``dataset.yaml``: where the images are, which classes there are, and the foreground rule of each."""

    holds_names: ClassVar[bool] = True

    image_root: str
    classes: tuple[ClassName, ...] | None = Field(None, description="None: the folders found under image_root")
    foreground: dict[ClassName, Foreground] = Field(default_factory=dict, description="by class; others use 'auto'")

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        unknown = sorted(set(self.foreground) - set(self.classes or self.foreground))
        if unknown:
            raise ValueError(f"foreground names {', '.join(unknown)}, which classes does not list")
        return self

    def foreground_of(self, class_name: str) -> Foreground:
        """Return the class's rule, or ``auto`` if it has none."""
        return self.foreground.get(class_name, "auto")

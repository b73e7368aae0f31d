"""The config of a dataset."""

from typing import Annotated, ClassVar, Literal, Self

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


Level = Annotated[int, Field(ge=0, le=255)]


class MaskRule(Section):
    """Which pixels of a mask file are defects; the default takes any that is not black."""

    channel: Literal["colour", "alpha"] = Field("colour", description="alpha: opaque pixels, whatever their colour")
    background: tuple[Level, Level, Level] = Field((0, 0, 0), description="red, green, blue of what is no defect")
    above: int = Field(0, ge=0, lt=255, description="a defect differs by more from the background; of 255")

    def __str__(self) -> str:
        if self.channel == "alpha":
            return f"opaque pixels are defects (alpha above {self.above})"
        black, white = (0, 0, 0), (255, 255, 255)
        names = {black: "black", white: "white (inverted)"}
        colour = names.get(self.background, f"the colour {', '.join(map(str, self.background))}")
        return f"pixels that differ{f' by more than {self.above}' if self.above else ''} from {colour} are defects"


class DatasetConfig(Section):
    """``dataset.yaml``: where the images are, which classes, their foreground rules, and how masks mark defects."""

    holds_names: ClassVar[bool] = True

    image_root: str
    classes: tuple[ClassName, ...] | None = Field(None, description="None: the folders found under image_root")
    foreground: dict[ClassName, Foreground] = Field(default_factory=dict, description="by class; others use 'auto'")
    masks: MaskRule = MaskRule()
    image_bits: int = Field(16, ge=8, le=16, description="bits that the values of 16-bit images use, such as 12")

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        unknown = sorted(set(self.foreground) - set(self.classes or self.foreground))
        if unknown:
            raise ValueError(f"foreground names {', '.join(unknown)}, which classes does not list")
        return self

    def foreground_of(self, class_name: str) -> Foreground:
        """Return the class's rule, or ``auto`` if it has none."""
        return self.foreground.get(class_name, "auto")

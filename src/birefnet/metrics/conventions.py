"""What papers do differently before they measure the same thing."""

from dataclasses import dataclass

from birefnet.errors import InputError


@dataclass(frozen=True)
class Conventions:
    """How a prediction and its truth are prepared; `docs/metrics.md` says who does what.

    Attributes:
        truth_above: levels of the truth above it are foreground.
        prediction_above: levels of the prediction above it are foreground where a measure needs a binary one (HCE,
            mBA, IoU, Dice); None takes what is above one half after stretching.
        stretch: map the least and the greatest level of each prediction to 0 and 1 first.
        both_empty: IoU and Dice of an empty prediction of an empty truth.
        stretch_mattes: map each matte's least and greatest value to 0 and 1 before gradients are taken.

    Raises:
        InputError: a threshold that no level, or every level, is above.
    """

    truth_above: int = 128
    prediction_above: int | None = 128
    stretch: bool = True
    both_empty: float = 1.0
    stretch_mattes: bool = False

    def __post_init__(self) -> None:
        for name, value in (("truth_above", self.truth_above), ("prediction_above", self.prediction_above)):
            if value is not None and not 0 <= value < 255:
                raise InputError(f"{name} is {value}: give a level from 0 to 254")


REFERENCE = Conventions()
"""As the reference's evaluation does."""
PYSODMETRICS = Conventions(prediction_above=None, both_empty=0.0)
"""As the library PySODMetrics does."""

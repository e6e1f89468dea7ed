"""Both pictures of a run: its log as curves, and samples of its last validation; needs no torch."""

from pathlib import Path

from birefnet.training.contact_sheet import MASKS, contact_sheet
from birefnet.training.curves import plot_curves
from birefnet.training.samples import load_samples


def plot(run: Path) -> list[Path]:
    """Draw curves.png and, where a validation has left samples, masks.png in the folder of a run, finished or not.

    Returns:
        The files that were written.

    Raises:
        DataError: it is no folder of a run, or its files are damaged.
        OutputError: a picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    made = [plot_curves(run)]
    title, samples = load_samples(run)
    if samples:
        made.append(contact_sheet(samples, run / MASKS, title))
    return made

"""What a photo is cut out for: which published weights suit, and what is to become of their alpha."""

from dataclasses import dataclass
from pathlib import Path

from birefnet.config import unknown_name


@dataclass(frozen=True)
class TaskPreset:
    """The weights for a task and the treatment of their alpha. What a user asks for explicitly comes first.

    Attributes:
        name: what the task is called.
        model: name of the published weights.
        summary: what the task is, in one line.
        levels: alpha up to the first becomes 0, from the second on 1; None keeps it as it is.
        threshold: alpha from here on becomes 1, below 0; None keeps it soft.
        decontaminate: whether a cut-out shows the object's own colours at soft edges.
    """

    name: str
    model: str
    summary: str
    levels: tuple[float, float] | None = None
    threshold: float | None = None
    decontaminate: bool = True


TASKS = {
    preset.name: preset
    for preset in (
        # Trained on masks of both kinds: alpha is taken as it comes.
        TaskPreset("general", "general", "any photo"),
        # Truth is binary, at the resolution of threads. What these weights are almost sure of becomes solid; more would
        # thin out what is narrower than a pixel of their input, whose alpha is a share of that pixel.
        TaskPreset("dis", "dis", "thin and intricate objects, to the last wire", levels=(0.1, 0.9)),
        # Truth is binary, and such an object has the colours of its surroundings. An alpha between is a doubt, not a
        # mixture, and the estimate of the object's own colours has nothing to tell apart.
        TaskPreset("cod", "cod", "camouflaged objects", threshold=0.5, decontaminate=False),
        # Truth is binary: grey insides are doubts about what stands out, and a little softness is left for the edge.
        TaskPreset("sod", "hrsod", "what stands out of a scene", levels=(0.2, 0.8)),
        # Hair: alpha is the share of the object, and the old background's colour shows in it.
        TaskPreset("portrait", "portrait", "people, with their hair"),
        TaskPreset("matting", "matting", "hair, veils, glass: how much of each pixel belongs to the object"),
    )
}
"""Task -> its weights and the treatment of their alpha."""


def get_task(name: str) -> TaskPreset:
    """Look a task up.

    Raises:
        ConfigError: there is none of that name; the message lists them.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def choose_model(task: str | None, *, model: str | None, weights: Path | None, default: str) -> str | Path:
    """Tell which weights to load: an explicit file, else an explicit model, else the task's, else the default.

    Args:
        task: name of a task, or None.
        model: name of a model if the user gave one.
        weights: file of weights if the user gave one.
        default: what to take where nothing was asked for.

    Raises:
        ConfigError: there is no such task.
    """
    if weights is not None or model is not None:
        return weights or model or default
    return default if task is None else get_task(task).model

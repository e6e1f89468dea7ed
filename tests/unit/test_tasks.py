"""Tasks and the models they choose."""

from pathlib import Path

import pytest

from birefnet import zoo
from birefnet.errors import ConfigError
from birefnet.tasks import TASKS, choose_model, get_task


def test_every_task_has_published_weights() -> None:
    assert set(TASKS) == set(zoo.TASKS)
    for name, preset in TASKS.items():
        assert preset.name == name
        published = zoo.find(preset.model)
        assert published is not None
        assert published.name == preset.model
        assert name in published.tasks


def test_presets_can_be_carried_out() -> None:
    for preset in TASKS.values():
        assert preset.levels is None or 0 <= preset.levels[0] < preset.levels[1] <= 1
        assert preset.threshold is None or 0 < preset.threshold < 1
        assert preset.levels is None or preset.threshold is None
    assert all(TASKS[name].levels is None and TASKS[name].decontaminate for name in ("matting", "portrait"))


def test_what_is_explicit_wins() -> None:
    file = Path("mine.safetensors")
    assert choose_model(None, model=None, weights=None, default="nano") == "nano"
    assert choose_model("dis", model=None, weights=None, default="nano") == "dis"
    assert choose_model("sod", model=None, weights=None, default="nano") == "hrsod"
    assert choose_model("dis", model="nano", weights=None, default="nano") == "nano"
    assert choose_model("dis", model="nano", weights=file, default="nano") == file
    assert choose_model("dis", model=None, weights=file, default="nano") == file


def test_unknown_tasks_are_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown task 'portrat': did you mean 'portrait'"):
        get_task("portrat")
    with pytest.raises(ConfigError):
        choose_model("nothing", model=None, weights=None, default="nano")

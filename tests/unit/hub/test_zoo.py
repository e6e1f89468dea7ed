"""The table of published weights: complete, consistent, and what is recommended of it."""

import json

import pytest

from birefnet.backbones import BACKBONES
from birefnet.errors import ConfigError
from birefnet.zoo import TASKS, ZOO, find, recommend

NAMES = {
    "general", "general-hr", "general-dynamic", "general-512", "general-lite", "general-lite-2k", "general-legacy",
    "portrait", "matting", "hr-matting", "lite-matting", "dis", "dis-massive", "hrsod", "cod", "rmbg-2.0", "lucida",
    "toonout",
}  # fmt: skip


def test_every_entry_is_whole() -> None:
    assert set(ZOO) == NAMES
    for name, model in ZOO.items():
        assert model.name == name
        assert model.backbone in BACKBONES
        assert model.repo.count("/") == 1
        assert model.tasks
        assert set(model.tasks) <= set(TASKS)
        assert model.summary
        assert model.licence
        assert bool(model.scores) == bool(model.scores_source)
        # A checksum is that of a certain commit.
        assert model.sha256 is None or model.revision is not None
        assert json.loads(json.dumps(model.to_dict())) == model.to_dict()
    assert [name for name, model in ZOO.items() if not model.commercial] == ["rmbg-2.0"]
    assert ZOO["general-lite-2k"].input_spec.size == (1440, 2560)
    assert (ZOO["general-dynamic"].input_spec.size, ZOO["general-dynamic"].dynamic) == ((1024, 1024), (256, 2304))


def test_all_names_lead_to_their_weights() -> None:
    spoken = [(name, model) for model in ZOO.values() for name in (model.name, model.repo, *model.aliases)]
    spoken += [(model.repo.partition("/")[2], model) for model in ZOO.values()]
    for name, model in spoken:
        assert find(name) == find(name.upper()) == model
    for name, expected in (
        ("birefnet-general", "general"),
        ("birefnet-massive", "dis-massive"),
        ("bria-rmbg", "rmbg-2.0"),
        ("ZhengPeng7/birefnet", "general"),
        ("BiRefNet_HR-matting", "hr-matting"),
    ):
        found = find(name)
        assert found is not None
        assert found.name == expected
    for name in ("u2net", "", "general/"):
        assert find(name) is None


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_every_task_has_a_first_choice(task: str, device: str) -> None:
    for memory in (0.5, 4, 16, 80):
        suggestions = recommend(task, memory_gb=memory, device=device, commercial=True)
        assert suggestions
        assert all(task in s.model.tasks and s.model.commercial for s in suggestions)
        assert all("\n" not in s.reason for s in suggestions)
        if len(suggestions) > 1:
            assert all(s.model.memory_gb <= memory for s in suggestions)


def names(**arguments: object) -> list[str]:
    return [s.model.name for s in recommend(**arguments)]  # type: ignore[arg-type]


def test_the_order_of_recommendations() -> None:
    assert names(task="general", memory_gb=24, device="cuda")[0] == "general"
    assert names(task="general", memory_gb=24, device="cpu")[0] == "general-lite"
    assert names(task="general", memory_gb=4, device="cuda")[:2] == ["general-512", "general-lite"][::-1]
    assert names(task="portrait", memory_gb=24, device="cuda")[0] == "portrait"
    assert names(task="matting", memory_gb=24, device="cpu")[0] == "lite-matting"
    assert names(task="cod", memory_gb=24, device="cpu")[0] == "cod"
    assert "general-hr" not in names(task="general", memory_gb=16, device="cuda")
    assert "rmbg-2.0" in names(task="general", memory_gb=16, commercial=False)
    assert "rmbg-2.0" not in names(task="general", memory_gb=16, commercial=True)
    assert names(task="general", memory_gb=1)[:1] == ["general-512"]
    with pytest.raises(ConfigError, match="did you mean 'matting'"):
        recommend("mating", memory_gb=8)

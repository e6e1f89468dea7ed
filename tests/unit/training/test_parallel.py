"""A process alone, and what is wrong with an environment; tests/integration/test_two_processes.py has two processes."""

import itertools
from typing import Any

import pytest
import torch
from tests.support import TINY, tiny_model

from birefnet.config import ModelConfig, RefinerConfig
from birefnet.errors import ConfigError, LostProcessError
from birefnet.model import BiRefNet
from birefnet.training.parallel import Parallel
from birefnet.training.processes import joined

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_everything_is_as_without_processes() -> None:
    with joined("cpu", "fsdp") as parallel:
        assert (parallel.rank, parallel.world, parallel.main, parallel.device.type) == (0, 1, True, "cpu")
        model = tiny_model().train()
        wrapped = parallel.wrap(model)
        with parallel.accumulating(wrapped, more=True):
            wrapped(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
        norm = parallel.clip(model, 1e-3)
        assert torch.isfinite(norm)
        assert float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])) < 2e-3
        assert parallel.any(True)
        assert not parallel.any(False)
        assert parallel.gather("value") == ["value"]
        parallel.barrier()


def test_a_state_goes_and_comes_back() -> None:
    parallel = Parallel(0, 1, torch.device("cpu"), "ddp")
    models = tiny_model(seed=0).train(), tiny_model(seed=1).train()
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=rate) for model, rate in zip(models, (1e-3, 1e-4), strict=True)
    ]
    for model, optimizer, _ in itertools.product(models[:1], optimizers[:1], range(2)):
        parallel.wrap(model)(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
        optimizer.step()
    state = parallel.full_state(models[0])
    parallel.load_full_state(models[1], state)
    parallel.load_full_optimizer_state(
        models[1], optimizers[1], parallel.full_optimizer_state(models[0], optimizers[0])
    )
    for name, value in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value)
        assert state[name] is not value
    first, second = (optimizer.state_dict() for optimizer in optimizers)
    assert first["param_groups"] == second["param_groups"]
    for index, values in first["state"].items():
        assert all(torch.equal(second["state"][index][key], value) for key, value in values.items())


def test_states_that_do_not_fit_are_refused() -> None:
    parallel = Parallel(0, 1, torch.device("cpu"), "ddp")
    model = tiny_model()
    state = parallel.full_state(model)
    name = next(iter(state))
    with pytest.raises(ConfigError, match="lacks"):
        parallel.load_full_state(model, {k: v for k, v in state.items() if k != name})
    with pytest.raises(ConfigError, match="unknown other"):
        parallel.load_full_state(model, {**state, "other": torch.zeros(1)})
    with pytest.raises(ConfigError, match="in the state but"):
        parallel.load_full_state(model, {**state, name: torch.zeros(1)})


@pytest.mark.parametrize(
    "options",
    [
        {"classes": 5},
        {"side_supervision": False, "outward": False},
        {"outward": False},
        {"refiner": RefinerConfig(kind="refunet")},
        {"refiner": RefinerConfig(kind="itself")},
        {"backbone": "pvt_v2_b0"},
        {"backbone": "vgg16"},
    ],
    ids=str,
)
def test_every_parameter_gets_a_gradient_whatever_has_a_loss(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    values = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    model = BiRefNet.from_config(ModelConfig(**{**values, **options})).train()
    wrapped = Parallel(0, 1, torch.device("cpu"), "ddp").wrap(model)
    wrapped(torch.randn(2, 3, 64, 64)).logits.mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_frozen_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is left to train"):
        Parallel(0, 1, torch.device("cpu"), "ddp").wrap(tiny_model().requires_grad_(False))


@pytest.mark.parametrize(
    ("variables", "device", "message"),
    [
        ({}, "gpu", "unknown device"),
        ({}, "meta", "no training on device"),
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2"}, "cpu", "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "cpu",
            "RANK 2 is not one of 2",
        ),
    ],
)
def test_what_cannot_be_joined_is_said(
    variables: dict[str, str], device: str, message: str, environment: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match=message), joined(device):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="use --device cpu"), joined("cuda"):
        pass


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="ddp, fsdp"), joined("cpu", "zero"):
        pass


def test_processes_that_do_not_come_are_not_waited_for(environment: pytest.MonkeyPatch) -> None:
    place = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in place.items():
        environment.setenv(name, value)
    with pytest.raises(LostProcessError, match=r"did not meet at 127\.0\.0\.1:9"), joined("cpu", timeout_s=1):
        pass

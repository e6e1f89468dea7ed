"""Two real processes train as one would: gradients, statistics, weights, files, and what happens when one dies.

The file is also the program of these processes: `python test_two_processes.py JOB FOLDER`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import TINY
from torch import Tensor, nn

from birefnet.config import InputSpec, ModelConfig
from birefnet.errors import BiRefNetError, DataError
from birefnet.model import BiRefNet, TrainOutput
from birefnet.modules.sync_norm import SyncBatchNorm2d, synchronize
from birefnet.training.parallel import Parallel, full, local
from birefnet.training.processes import joined
from birefnet.training.savings import checkpoint_activations, freeze

REPOSITORY = Path(__file__).parents[2]
ALONE = Parallel(0, 1, torch.device("cpu"), "ddp")
STEPS = 3


def build() -> BiRefNet:
    torch.manual_seed(0)
    config = ModelConfig.from_dict({**TINY.to_dict(), "dropout": 0.0})
    return BiRefNet.from_config(config, InputSpec(size=(64, 64))).double().train()


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def share(parallel: Parallel) -> Tensor:
    return images().chunk(parallel.world)[parallel.rank]


def loss_of(output: TrainOutput) -> Tensor:
    # The gradient predictions have no loss: their parameters must not keep the other process waiting.
    return torch.stack(
        [(logits.sigmoid() - 0.3).square().mean() for logits in (output.logits, *output.side_logits)]
    ).sum()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: full(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}


def steps(parallel: Parallel, model: BiRefNet) -> torch.optim.Optimizer:
    """Train a little. Momentum makes the optimizer's state matter; the rate keeps rounding from growing."""
    wrapped = parallel.wrap(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    for _ in range(STEPS):
        one_step(parallel, wrapped, model, optimizer)
    return optimizer


def one_step(parallel: Parallel, wrapped: nn.Module, model: BiRefNet, optimizer: torch.optim.Optimizer) -> None:
    loss_of(wrapped(share(parallel))).backward()
    parallel.clip(model, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def norms(folder: Path) -> None:
    """Synchronized statistics of batches of different sizes, far from zero."""
    with joined("cpu") as parallel:
        torch.manual_seed(0)
        x = torch.randn(5, 3, 4, 6, dtype=torch.float64) * 2 + 1000
        target = torch.randn_like(x)
        own = slice(0, 2) if parallel.main else slice(2, 5)
        results = []
        for momentum in (0.1, None):
            norm = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum).double())
            nn.init.normal_(norm[0].weight)
            assert synchronize(norm) == 1
            assert isinstance(norm[0], SyncBatchNorm2d)
            part = x[own].clone().requires_grad_()
            out = norm(part)
            (out * target[own]).sum().backward()
            found = {"out": out, "x": part.grad, "weight": norm[0].weight, **norm.state_dict()}
            found |= {"weight_grad": norm[0].weight.grad, "bias_grad": norm[0].bias.grad}
            results.append({name: value.detach().clone() for name, value in found.items()})
            half = norm.float()(x[own].to(torch.bfloat16))
            assert half.dtype == torch.bfloat16
        everyone = parallel.gather(results)
        if parallel.main:
            torch.save({"x": x, "target": target, "results": everyone}, folder / "result.pt")


def ddp(folder: Path) -> None:
    """One backward pass, accumulated ones, agreement, gathering."""
    with joined("cpu") as parallel:
        result: dict[str, Any] = {}
        model = build()
        checkpoint_activations(model)
        wrapped = parallel.wrap(model)
        loss_of(wrapped(share(parallel))).backward()
        result["gradients"] = gradients(model)
        result["state"] = parallel.full_state(model)
        assert bool(result["state"]) == parallel.main

        model = build()
        freeze(model, ["norm"])
        wrapped = parallel.wrap(model)
        first, second = share(parallel).chunk(2)
        with parallel.accumulating(wrapped, more=True):
            (loss_of(wrapped(first)) / 2).backward()
        with parallel.accumulating(wrapped, more=False):
            (loss_of(wrapped(second)) / 2).backward()
        result["accumulated"] = gradients(model)

        result["any"] = [parallel.any(False), parallel.any(parallel.rank == 1), parallel.any(True)]
        result["gathered"] = parallel.gather({"rank": parallel.rank, "long": "x" * (1 + 1000 * parallel.rank)})
        parallel.barrier()
        if parallel.main:
            torch.save(result, folder / "result.pt")


def fsdp(folder: Path) -> None:
    """Sharded steps, averages and files, and going on from them."""
    with joined("cpu", "fsdp") as parallel:
        model = build()
        checkpoint_activations(model)
        optimizer = steps(parallel, model)
        averaged = {name: value.detach().clone() for name, value in model.named_parameters()}
        for name, value in model.named_parameters():
            local(averaged[name]).lerp_(2 * local(value.detach()), 0.5)  # 1.5 of the weights
        assert all(local(value).numel() <= value.numel() for value in averaged.values())
        result = {
            "state": parallel.full_state(model),
            "optimizer": parallel.full_optimizer_state(model, optimizer),
            "averaged": parallel.full_state(averaged),
        }
        if parallel.main:
            torch.save(result, folder / "result.pt")
        before = parallel.full_state(model, everywhere=True)
        with torch.no_grad():
            for parameter in model.parameters():
                local(parameter).zero_()
        parallel.load_full_state(model, result["state"] if parallel.main else None)
        after = parallel.full_state(model, everywhere=True)
        assert all(torch.equal(after[name], value) for name, value in before.items())
        parallel.load_full_optimizer_state(model, optimizer, result["optimizer"] if parallel.main else None)
        again = parallel.full_optimizer_state(model, optimizer)
        for name, values in result["optimizer"].get("state", {}).items():
            assert torch.equal(values["momentum_buffer"], again["state"][name]["momentum_buffer"])
        model.eval()
        with torch.no_grad():
            model(images())


def leave(folder: Path, how: Callable[[], None]) -> None:
    """Step together until one process leaves in its own way."""
    with joined("cpu", timeout_s=60) as parallel:
        model = build()
        wrapped = parallel.wrap(model)
        for step in range(10):
            if step == 1 and not parallel.main:
                (folder / "left").write_text(str(time.time()))
                how()
            loss_of(wrapped(share(parallel))).backward()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise DataError("photo.jpg: cannot be read")


JOBS: dict[str, Callable[[Path], None]] = {
    "norms": norms,
    "ddp": ddp,
    "fsdp": fsdp,
    "killed": lambda folder: leave(folder, kill),
    "failed": lambda folder: leave(folder, fail),
}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def launch(job: str, folder: Path) -> list[tuple[int, str]]:
    """Run a job in two processes and return how each ended and what it wrote to its standard error."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])  # for tests.support
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", __file__, job, str(folder)]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [(process.wait(), error) for process in processes for error in [process.communicate(timeout=90)[1]]]
    finally:
        for process in processes:
            process.kill()


def result_of(job: str, folder: Path) -> Any:
    ends = launch(job, folder)
    assert [code for code, _ in ends] == [0, 0], ends
    return torch.load(folder / "result.pt")


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    # Gradients that are zero but for rounding (a bias before a norm) are measured by the largest there are.
    whole = torch.stack([value.double().norm() for value in expected.values()]).max()
    for name, value in expected.items():
        error = (found[name].double() - value.double()).norm()
        assert error <= tolerance * value.double().norm() + 1e-3 * tolerance * whole, (name, float(error))


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    result = result_of("norms", tmp_path)
    for i, momentum in enumerate((0.1, None)):
        first, second = (results[i] for results in result["results"])
        norm = nn.BatchNorm2d(3, momentum=momentum).double()
        with torch.no_grad():
            norm.weight.copy_(first["weight"])
        x = result["x"].clone().requires_grad_()
        out = norm(x)
        (out * result["target"]).sum().backward()
        close = {"rtol": 1e-9, "atol": 1e-10}
        torch.testing.assert_close(torch.cat([first["out"], second["out"]]), out.detach(), **close)
        torch.testing.assert_close(torch.cat([first["x"], second["x"]]), x.grad, **close)
        torch.testing.assert_close(first["weight_grad"] + second["weight_grad"], norm.weight.grad, **close)
        torch.testing.assert_close(first["bias_grad"] + second["bias_grad"], norm.bias.grad, **close)
        for name, value in norm.state_dict().items():
            assert torch.equal(first[f"0.{name}"], second[f"0.{name}"])
            torch.testing.assert_close(first[f"0.{name}"], value, **close)


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    result = result_of("ddp", tmp_path)
    model = build()
    loss_of(ALONE.wrap(model)(images())).backward()
    assert_near(result["gradients"], gradients(model), 1e-6)
    assert_near(result["state"], model.state_dict(), 1e-6)

    model = build()
    freeze(model, ["norm"])
    loss_of(ALONE.wrap(model)(images())).backward()
    assert_near(result["accumulated"], gradients(model), 1e-6)

    assert result["any"] == [False, True, True]
    assert [value["rank"] for value in result["gathered"]] == [0, 1]
    assert [len(value["long"]) for value in result["gathered"]] == [1, 1001]


@pytest.mark.slow
def test_shards_train_as_a_whole_network_does(tmp_path: Path) -> None:
    result = result_of("fsdp", tmp_path)
    model = build()
    optimizer = steps(ALONE, model)
    assert_near(result["state"], model.state_dict(), 1e-6)
    assert_near(result["averaged"], {name: 1.5 * result["state"][name] for name, _ in model.named_parameters()}, 1e-12)

    # The files of two processes are gone on with by one.
    other = build()
    wrapped = ALONE.wrap(other)
    resumed = torch.optim.SGD(other.parameters(), lr=1.0)
    ALONE.load_full_state(other, result["state"])
    ALONE.load_full_optimizer_state(other, resumed, result["optimizer"])
    assert resumed.param_groups[0]["lr"] == 1e-4
    one_step(ALONE, wrapped, other, resumed)
    one_step(ALONE, ALONE.wrap(model), model, optimizer)
    assert_near(other.state_dict(), model.state_dict(), 1e-6)


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_the_loss_of_a_process_ends_the_run_with_one_line(how: str, tmp_path: Path) -> None:
    (survivor, message), (gone, other) = launch(how, tmp_path)
    assert survivor == 1
    assert gone == (-signal.SIGKILL if how == "killed" else 1)
    assert time.time() - float((tmp_path / "left").read_text()) < 30  # not the 60 s that it waits for the living
    assert "another process of the run has died" in message
    assert len(message.splitlines()) == 1, message
    if how == "failed":
        assert other == "error: photo.jpg: cannot be read\n"


if __name__ == "__main__":
    try:
        JOBS[sys.argv[1]](Path(sys.argv[2]))
    except BiRefNetError as error:
        sys.exit(f"error: {error}")

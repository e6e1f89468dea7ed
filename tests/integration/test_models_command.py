"""`birefnet models` as a user runs it, against a hub on the loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import birefnet
from birefnet.cli import main
from birefnet.hub import transfer
from birefnet.models import bundled_file
from birefnet.zoo import ZOO
from hub_server import FakeHub, hub_environment, hub_server, using_hub
from support import tiny_model


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that this process uses, with a tiny model under three names."""
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.001)
    weights = tmp_path / "tiny.safetensors"
    birefnet.save_model(tiny_model(), weights)
    files = {"model.safetensors": weights.read_bytes(), "README.md": b"---\nlicense: apache-2.0\n---\n"}
    with hub_server() as running, using_hub(running.url, tmp_path / "home"):
        running.add("somebody/tiny", files)
        running.add("ZhengPeng7/BiRefNet", files)
        running.add("briaai/RMBG-2.0", files, gated=True)
        running.readers.add("good")
        yield running


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments], catch_exceptions=False)


@pytest.mark.usefixtures("server")
def test_list() -> None:
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2 + len(ZOO)
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == {"nano", *ZOO}
    assert rows["nano"].split()[-1] == "bundled"
    assert "CC BY-NC 4.0, gated" in rows["rmbg-2.0"]
    assert "1440 x 2560" in rows["general-lite-2k"]
    assert "256 to 2304" in rows["general-dynamic"]
    listed = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert listed["general"]["here"] == "-"
    assert listed["rmbg-2.0"]["commercial"] is False
    assert run("download", "general").exit_code == 0
    listed = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert listed["general"]["here"] == "cached"


def test_download(server: FakeHub) -> None:
    result = run("download", "birefnet-general", "nano", "no-such-name", "somebody/tiny", "somebody/none")
    assert result.exit_code == 1
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert len(paths) == 3
    assert paths[1] == bundled_file("nano", ".safetensors")
    for path in (paths[0], paths[2]):
        assert birefnet.load_model(path).config == tiny_model().config
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert "unknown model 'no-such-name'" in errors[0]
    assert "somebody/none" in errors[1]
    assert "birefnet-general: licence MIT; the author states" in result.stderr
    assert "somebody/tiny: licence apache-2.0" in result.stderr
    server.log.clear()
    assert run("download", "somebody/tiny").stdout.strip() == str(paths[2])
    assert not server.asked("/resolve/")


def test_non_commercial_and_gated_weights(monkeypatch: pytest.MonkeyPatch, server: FakeHub) -> None:
    result = run("download", "rmbg-2.0")
    assert result.exit_code == 1
    assert "non-commercial use only (CC BY-NC 4.0" in result.stderr
    assert "--accept-licence" in result.stderr
    assert server.log == []
    result = run("download", "rmbg-2.0", "--accept-licence")
    assert result.exit_code == 1
    assert "accept its terms on https://huggingface.co/briaai/RMBG-2.0" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    monkeypatch.setenv("HF_TOKEN", "good")
    assert run("download", "rmbg-2.0", "--accept-licence").exit_code == 0


@pytest.mark.usefixtures("server")
def test_info(tmp_path: Path) -> None:
    shown = run("info", "birefnet-lite-2k").stdout
    for text in (
        "repository: ZhengPeng7/BiRefNet_lite-2K",
        "input: 1440 x 2560",
        "licence: MIT",
        "DIS-VD maxF 0.867",
        "parameters: 44.3 million",
        "GMACs at 1024 x 1024: 321",
        "GMACs at 1440 x 2560: ",
    ):
        assert text in shown
    shown = run("info", "nano").stdout
    assert "parameters: 2.9 million" in shown
    assert "here: bundled" in shown
    shown = run("info", "pvt_v2_b0").stdout
    assert "parameters: 15.8 million" in shown
    assert "GMACs at 1024 x 1024: 193" in shown
    run("download", "somebody/tiny")
    for name in ("somebody/tiny", str(tmp_path / "tiny.safetensors")):
        shown = run("info", name).stdout
        assert "backbone: mobilenet_v4_s" in shown
        assert "GMACs at 64 x 64" in shown
    assert "licence: apache-2.0" in run("info", "somebody/tiny").stdout
    assert "input: 384 x 384" in run("info", str(bundled_file("nano", ".onnx"))).stdout


@pytest.mark.usefixtures("server")
def test_info_of_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no weights at all")
    for name, reason in (
        ("swin_v1_x", "unknown model 'swin_v1_x': did you mean"),
        ("somebody/else", "not in the cache; run  birefnet models download somebody/else"),
        (str(tmp_path / "none.pth"), "none.pth: cannot be read (No such file or directory)"),
        (str(tmp_path / "text.safetensors"), "is no safetensors file, or a damaged one"),
    ):
        result = run("info", name)
        assert result.exit_code == 1
        assert reason in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("server")
def test_recommend() -> None:
    result = run("recommend", "--task", "matting", "--device", "cpu")
    assert result.exit_code == 0
    assert "1. lite-matting: " in result.stdout
    assert "birefnet models download lite-matting\n" in result.stdout
    assert "rmbg-2.0" in run("recommend", "--device", "cpu").stdout
    assert "rmbg-2.0" not in run("recommend", "--device", "cpu", "--commercial").stdout
    result = run("recommend", "--device", "toaster")
    assert result.exit_code == 1
    assert result.stderr == "Error: device 'toaster': must be cpu, cuda or mps\n"


# A finder that hides torch, as on a machine where only the core is installed.
WITHOUT_TORCH = """
import importlib.util, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "kornia"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Hidden())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else found(name, package)
from birefnet.cli import main
main(sys.argv[1:])
"""


def test_without_torch(server: FakeHub, tmp_path: Path) -> None:
    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, "models", *arguments],
            env={**os.environ, **hub_environment(server.url, tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )

    assert python("list").returncode == 0
    result = python("download", "somebody/tiny")
    assert (result.returncode, result.stderr) == (0, "somebody/tiny: licence apache-2.0\n")
    for name in ("somebody/tiny", "general", "nano"):
        result = python("info", name)
        assert (result.returncode, result.stderr) == (0, "")
        assert "input: " in result.stdout
        assert "counted with torch: torch is not installed: run  pip install" in result.stdout
    result = python("info", "swin_v1_b")
    assert result.returncode == 1
    assert "backbones are known once torch is installed" in result.stderr
    result = python("recommend")
    assert result.returncode == 0
    assert "pip install 'birefnet[torch]'" in result.stdout

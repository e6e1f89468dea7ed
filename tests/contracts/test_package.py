"""What users of the package rely on: its names, what importing it needs, its command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import birefnet


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_public_names_exist() -> None:
    assert set(birefnet.__all__) == {
        "BiRefNet",
        "BiRefNetError",
        "InputSpec",
        "ModelConfig",
        "RefinerConfig",
        "TrainOutput",
        "__version__",
        "load",
        "load_model",
        "save_model",
    }
    for name in birefnet.__all__:
        assert getattr(birefnet, name) is not None
    assert set(birefnet.__all__) <= set(dir(birefnet))
    with pytest.raises(AttributeError, match="no_such_name"):
        birefnet.no_such_name  # noqa: B018


TORCH_FREE = [
    "birefnet",
    "birefnet.cli",
    "birefnet.cli.cutout",
    "birefnet.cli.data",
    "birefnet.cli.doctor",
    "birefnet.cli.evaluate",
    "birefnet.cli.models",
    "birefnet.evaluation.run",
    "birefnet.hub",
    "birefnet.metrics",
    "birefnet.predictor",
    "birefnet.loading",
    "birefnet.engines.onnx_engine",
    "birefnet.engines.testing",
]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_needs_no_torch(module: str) -> None:
    result = python(f"import sys, {module}; print([m for m in ('torch', 'kornia', 'safetensors') if m in sys.modules])")
    assert (result.stdout, result.stderr) == ("[]\n", "")


# A finder that hides torch, as on a machine where only the core is installed.
WITHOUT_TORCH = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "kornia"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Hidden())
"""


def test_without_torch_the_remedy_is_named() -> None:
    result = python(WITHOUT_TORCH + "import birefnet; birefnet.load_model('x.pth')")
    assert "MissingExtraError" in result.stderr
    assert "pip install 'birefnet[torch]'" in result.stderr.splitlines()[-1]
    result = python(
        WITHOUT_TORCH + "import sys\nfrom birefnet.cli import main\nmain(['cutout', 'a', '--weights', 'b'])"
    )
    assert result.returncode == 1
    assert result.stderr == (
        "Error: torch is not installed: run  pip install 'birefnet[torch]', or export the model where it is "
        "('birefnet export') and use the .onnx or .xml file here\n"
    )


def test_help_lists_the_commands_without_torch() -> None:
    result = python(WITHOUT_TORCH + "from birefnet.cli import main; main(['--help'])")
    assert result.returncode == 0
    assert "cutout" in result.stdout


def test_without_torch_a_photo_is_cut_out(chelsea: Path, tmp_path: Path) -> None:
    code = f"from birefnet.cli import main\nmain(['cutout', {str(chelsea)!r}, '-o', {str(tmp_path / 'cat.png')!r}])"
    result = python(WITHOUT_TORCH + code)
    assert (result.returncode, result.stderr) == (0, "")
    with Image.open(tmp_path / "cat.png") as image:
        assert image.mode == "RGBA"
        low, high = image.getchannel("A").getextrema()
        assert low < 16
        assert high > 200


def test_doctor_says_what_works_and_why_the_rest_does_not() -> None:
    result = python(WITHOUT_TORCH + "from birefnet.cli import main; main(['doctor'])")
    assert (result.returncode, result.stderr) == (0, "")
    assert "engine onnx on cpu: works" in result.stdout
    assert "engine torch on cpu: does not work: torch is not installed: run  pip install" in result.stdout
    result = python("from birefnet.cli import main; main(['doctor'])")
    assert (result.returncode, result.stderr) == (0, "")
    assert "engine torch on cpu: works" in result.stdout
    assert "engine torch on cuda" in result.stdout


def test_importing_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys, torch, random, logging\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "before = (dict(os.environ), torch.initial_seed(), random.getstate(), logging.root.handlers[:],\n"
        "          torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision())\n"
        "import birefnet, birefnet.model, birefnet.weights, birefnet.losses, birefnet.data, birefnet.training\n"
        "after = (dict(os.environ), torch.initial_seed(), random.getstate(), logging.root.handlers[:],\n"
        "         torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision())\n"
        "assert before == after\n"
        "assert os.listdir('.') == []\n"
    )
    result = python(code)
    assert result.stderr == ""

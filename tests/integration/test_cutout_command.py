"""The command as a user runs it: real files, real weights, and where that matters a process of its own."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import birefnet
from birefnet import load_model, save_model
from birefnet.cli import main
from birefnet.config import InputSpec
from birefnet.engines.testing import FakeEngine
from birefnet.engines.torch_engine import TorchEngine
from birefnet.predictor import Predictor
from birefnet.tasks import TASKS
from support import tiny_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(tiny_model(), path)
    return path


COMMAND = [sys.executable, "-W", "error", "-m", "birefnet", "cutout"]


def cutout(*arguments: object, cwd: Path) -> Result:
    """Run the command in this process, where it costs no start-up."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(main, ["cutout", *map(str, arguments)], catch_exceptions=False)


def test_a_photo_becomes_a_mask_of_its_size(weights: Path, chelsea: Path, tmp_path: Path) -> None:
    arguments = [chelsea, "--weights", weights, "--kind", "mask", "-o", "mask.png"]
    result = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    model = load_model(weights)
    expected = Predictor(TorchEngine(model), model.input_spec).predict(chelsea).alpha
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask), np.rint(expected * 255))


def test_the_mask_lies_beside_the_photo_and_is_not_replaced_unasked(weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    assert cutout("photo.jpg", "--kind", "mask", "--weights", weights, cwd=tmp_path).exit_code == 0
    mask = tmp_path / "photo-mask.png"
    mask.write_bytes(b"precious")
    refused = cutout("photo.jpg", "--kind", "mask", "--weights", weights, cwd=tmp_path)
    assert refused.exit_code == 1
    assert "photo-mask.png: exists already; pass --overwrite or --skip-existing" in refused.stderr
    assert mask.read_bytes() == b"precious"
    assert cutout("photo.jpg", "--kind", "mask", "--weights", weights, "--overwrite", cwd=tmp_path).exit_code == 0
    assert mask.read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("arguments", "name", "mode"),
    [
        ((), "photo-cutout.png", "RGBA"),
        (("--format", "webp"), "photo-cutout.webp", "RGBA"),
        (("--kind", "trimap"), "photo-trimap.png", "L"),
        (("--kind", "composite", "--background", "white", "-o", "out.jpg"), "out.jpg", "RGB"),
        (("--kind", "composite", "--background", "blur", "--no-decontaminate"), "photo-composite.png", "RGB"),
        (("--kind", "composite", "--background", "photo.jpg"), "photo-composite.png", "RGB"),
        (("--crop", "--threshold", "0.4", "--feather", "1.5", "--grow", "-2"), "photo-cutout.png", "RGBA"),
        (("--crop", "12", "--kind", "mask"), "photo-mask.png", "L"),
        (("--levels", "0.2", "0.8", "--decontaminate", "--task", "cod"), "photo-cutout.png", "RGBA"),
        (("--refine", "--kind", "mask"), "photo-mask.png", "L"),
    ],
)
def test_every_kind_is_written(
    weights: Path, astronaut: Path, tmp_path: Path, arguments: tuple[str, ...], name: str, mode: str
) -> None:
    with Image.open(astronaut) as image:
        image.resize((90, 120)).save(tmp_path / "photo.jpg")
    result = cutout("photo.jpg", *arguments, "--weights", weights, cwd=tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["photo.jpg", name])
    with Image.open(tmp_path / name) as image:
        image.load()
        assert image.mode == mode


@pytest.fixture
def in_process() -> Callable[..., None]:
    """The command in this process, where a run costs no start-up."""
    return lambda *arguments: main(["cutout", *map(str, arguments)], standalone_mode=False)


def test_a_task_treats_alpha_as_its_preset_says(
    weights: Path, chelsea: Path, tmp_path: Path, in_process: Callable[..., None]
) -> None:
    def by(*options: object) -> np.ndarray:
        in_process(chelsea, "--kind", "mask", "-o", target, "--overwrite", "--weights", weights, *options)
        with Image.open(target) as mask:
            return np.asarray(mask)

    target = tmp_path / "mask.png"
    plain = by()
    assert len(np.unique(plain)) > 2  # the tiny network's alpha is soft, or nothing below would show
    for task, preset in TASKS.items():
        treated = by("--task", task)
        if preset.levels is not None:
            assert np.array_equal(treated, by("--levels", *preset.levels))
        elif preset.threshold is not None:
            assert np.array_equal(treated, by("--threshold", preset.threshold))
        else:
            assert np.array_equal(treated, plain)
    for explicit in (("--levels", 0, 1), ("--threshold", 0.3)):  # what is said explicitly wins
        assert np.array_equal(by("--task", "dis", *explicit), by(*explicit))
        assert np.array_equal(by("--task", "cod", *explicit), by(*explicit))


def test_a_task_gives_way_to_an_explicit_model(chelsea: Path, tmp_path: Path) -> None:
    result = cutout(chelsea, "--task", "cod", "--model", "nano", "--kind", "mask", "-o", "mask.png", cwd=tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    with Image.open(tmp_path / "mask.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_closer_looks_are_those_of_the_predictor(chelsea: Path, tmp_path: Path) -> None:
    with Image.open(chelsea) as image:
        image.resize((902, 600)).save(tmp_path / "large.png")
    expected = birefnet.load("nano").predict(tmp_path / "large.png", refine=True).alpha
    result = cutout("large.png", "--refine", "--kind", "mask", cwd=tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    with Image.open(tmp_path / "large-mask.png") as mask:
        assert np.array_equal(np.asarray(mask), np.rint(expected * 255))


def test_the_weight_of_the_crf_is_that_of_the_predictor(chelsea: Path, tmp_path: Path) -> None:
    found = {}
    for weight in (0, 3):
        result = cutout(chelsea, "--crf", str(weight), "--kind", "mask", "-o", f"{weight}.png", cwd=tmp_path)
        assert (result.exit_code, result.stderr) == (0, "")
        expected = birefnet.load("nano", crf=weight).predict(chelsea).alpha
        with Image.open(tmp_path / f"{weight}.png") as mask:
            found[weight] = np.asarray(mask)
            assert np.array_equal(found[weight], np.rint(expected * 255))
    half_transparent = {weight: ((mask > 25) & (mask < 230)).mean() for weight, mask in found.items()}
    assert half_transparent[3] < 0.8 * half_transparent[0]
    result = cutout(chelsea, "--crf", "-1", cwd=tmp_path)
    assert result.exit_code == 2
    assert "--crf" in result.stderr


@pytest.mark.parametrize("choice", ["mirror", "keep_aspect"])
def test_looks_are_those_of_the_predictor(choice: str, chelsea: Path, tmp_path: Path) -> None:
    for wanted in (True, False):
        predictor = birefnet.load("nano", **{choice: wanted})
        assert getattr(predictor if choice == "mirror" else predictor.spec, choice) is wanted
        expected = predictor.predict(chelsea).alpha
        option = f"--{'' if wanted else 'no-'}{choice.replace('_', '-')}"
        result = cutout(chelsea, option, "--kind", "mask", "-o", f"{wanted}.png", cwd=tmp_path)
        assert (result.exit_code, result.stderr) == (0, "")
        with Image.open(tmp_path / f"{wanted}.png") as mask:
            assert np.array_equal(np.asarray(mask), np.rint(expected * 255))
    assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()


def test_notes_of_the_model_are_said_once(
    chelsea: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_process: Callable[..., None],
) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(chelsea, tmp_path / name)
    remarked = Predictor(FakeEngine(), InputSpec(size=(32, 32)), notes=["x.pth: backbone swin_v1_t inferred"])
    asked = {}

    def load(model: str | Path, **options: object) -> Predictor:
        asked.update(options, model=model)
        return remarked

    monkeypatch.setattr("birefnet.cli.cutout.load", load)
    in_process(tmp_path, "--task", "sod", "--accept-licence", "-o", tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "x.pth: backbone swin_v1_t inferred"
    assert len(lines) == 2
    expected = {"model": "hrsod", "engine": "auto", "size": None, "device": "cpu", "accept_licence": True}
    assert expected.items() <= asked.items()


def test_a_folder_keeps_its_tree_and_is_finished_later(weights: Path, tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.jpg", "deep/er/c.webp"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / name)
    options = ("--weights", weights, "--kind", "mask", "--batch-size", "2")
    result = cutout("photos", *options, cwd=tmp_path)
    assert result.exit_code == 0
    assert re.fullmatch(r"3 done in .*\n", result.stderr)
    made = tmp_path / "photos-mask"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*.*")) == ["a.png", "deep/b.png", "deep/er/c.png"]
    (made / "a.png").write_bytes(b"precious")
    (made / "deep" / "b.png").unlink()
    result = cutout("photos", *options, "--skip-existing", cwd=tmp_path)
    assert result.exit_code == 0
    assert re.fullmatch(r"1 done in .*, 2 skipped\n", result.stderr)
    assert (made / "a.png").read_bytes() == b"precious"
    assert (made / "deep" / "b.png").exists()


def test_standard_input_and_output(weights: Path, chelsea: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "-", "--weights", str(weights)]
    result = subprocess.run(command, input=chelsea.read_bytes(), capture_output=True, check=True)
    with Image.open(io.BytesIO(result.stdout)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (451, 300))
    assert result.stderr == b""
    result = cutout(chelsea, "-o", "-", "--kind", "mask", "--format", "webp", "--weights", weights, cwd=tmp_path)
    with Image.open(io.BytesIO(result.stdout_bytes)) as image:
        assert (image.format, image.size) == ("WEBP", (451, 300))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.write(chelsea.read_bytes())
        process.stdin.close()
        assert process.stderr.read() == b"Error: standard output: cannot be written (Broken pipe)\n"
    assert process.returncode == 1


def test_odd_photos_are_read_as_documented(weights: Path, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    result = cutout("moving.gif", "--kind", "mask", "--weights", weights, cwd=tmp_path)
    assert (result.exit_code, result.stderr) == (0, "moving.gif: has 3 frames; the first one is used\n")
    Image.new("RGBA", (40, 30), (9, 9, 9, 0)).save(tmp_path / "clear.png", dpi=(300, 300))
    result = cutout("clear.png", "--kind", "mask", "--weights", weights, cwd=tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    with Image.open(tmp_path / "clear-mask.png") as mask:
        assert mask.getextrema() == (0, 0)
        assert mask.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    result = cutout(
        "clear.png", "--kind", "mask", "--weights", weights, "--max-pixels", "1000", "--overwrite", cwd=tmp_path
    )
    assert result.stderr == "Error: clear.png: 40 x 30 pixels are over the limit of 1,000\n"


def test_bad_photos_are_reported_at_the_end_and_the_others_done(weights: Path, tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / name)
    (tmp_path / "b.png").write_text("text")
    (tmp_path / "masks").mkdir()
    result = cutout(
        "a.png", "b.png", "c.png", "missing.png", "--kind", "mask", "--weights", weights, "-o", "masks", cwd=tmp_path
    )
    assert result.exit_code == 1
    *errors, summary = result.stderr.splitlines()
    assert errors == [
        "Error: b.png: not an image, or of a kind that cannot be read",
        "Error: missing.png: no such file",
    ]
    assert re.fullmatch(r"2 done in \d+\.\d s \(\d+\.\d a second\), 2 failed", summary)
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a-mask.png", "c-mask.png"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("a.png", "--weights", "missing.safetensors"), 1, "missing.safetensors: no such file"),
        (("a.png", "--weights", "a.png"), 1, "a.png: neither a .safetensors nor a .pth file"),
        (("a.png", "--size", "100"), 1, "size 100: must be a multiple of 32"),
        (("a.png", "--size", "640000"), 1, "size 640000: must be a multiple of 32, from 32 to"),
        (("a.png", "--device", "quantum"), 1, "device 'quantum' cannot be used here"),
        (("a.png", "--device", "meta"), 1, "device 'meta' cannot be used here"),
        (("a.png", "-o", "mask.docx"), 1, "mask.docx: an image with transparency cannot be written as .docx"),
        (("a.png", "-o", "b.png/mask.png"), 1, "b.png: the folder cannot be made (File exists)"),
        (("a.png", "-o", "/proc/mask.png"), 1, "/proc/mask.png: cannot be written (No such file or directory)"),
        (("a.png", "--overwrite", "--skip-existing"), 2, "exclude each other"),
        (("a.png", "-"), 2, "- stands for a single photo"),
        (("*.gif",), 1, "*.gif: no file matches"),
        ((300 * "n" + ".png",), 1, "cannot be read (File name too long)"),
        (("a.png", "-o", "a.png"), 1, "a.png: is a photo to cut out and would be replaced"),
        (("a.png", "b.png", "-o", "mask.png"), 1, "2 photos cannot go into one file"),
        (("a.png", "a.jpg"), 1, "would both be written to a-cutout.png"),
        (("a.png", "../NAME/a.jpg"), 1, "would both be written to"),
        (("a.png", "-o", "cutout.jpg"), 1, "cutout.jpg: an image with transparency cannot be written as .jpg"),
        (("a.png", "--kind", "composite"), 2, "--kind composite and --background go together"),
        (("a.png", "--background", "red"), 2, "--kind composite and --background go together"),
        (("a.png", "--kind", "composite", "--background", "reddish"), 1, "'reddish' is no colour"),
        (("a.png", "--kind", "hologram"), 2, "'hologram' is not"),
        (("a.png", "--task", "juggling"), 2, "'juggling' is not one of 'general', 'dis', 'cod', 'sod'"),
        (("a.png", "--levels", "0.8", "0.2"), 2, "--levels 0.8 0.2: the lower one comes first"),
        (("a.png", "--levels", "0.5", "0.5"), 2, "--levels 0.5 0.5: the lower one comes first"),
        (("a.png", "--levels", "0.5", "1.5"), 2, "1.5 is not in the range 0<=x<=1"),
        (("a.png", "--levels", "0.5"), 2, "Invalid value for '--levels'"),
        ((), 2, "Missing argument"),
    ],
)
def test_mistakes_get_one_clear_line(
    weights: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    for name in ("a.png", "b.png", "a.jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    arguments = tuple(argument.replace("NAME", tmp_path.name) for argument in arguments)
    chosen = () if "--weights" in arguments else ("--weights", weights)
    result = cutout(*arguments, *chosen, cwd=tmp_path)
    assert result.exit_code == status
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.png", "b.png"]

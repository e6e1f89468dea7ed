import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from birefnet.cli.train import RECIPES as OFFERED
from birefnet.config import ModelConfig
from birefnet.errors import ConfigError
from birefnet.training.recipe import Recipe, changed, differences, parse_changes, read_file
from birefnet.training.recipes import RECIPES, Basis, make_recipe


def test_the_command_offers_all_recipes() -> None:
    assert tuple(RECIPES) == OFFERED


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = make_recipe(name, Basis(100))
    assert recipe.name == name
    text = tomli_w.dumps(recipe.to_dict())
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    assert Recipe.from_dict(read_file(path)) == recipe
    assert Recipe.from_dict(tomllib.loads(text)).to_dict() == recipe.to_dict()


@pytest.mark.parametrize(
    ("name", "epochs", "rate", "sizes", "late"),
    [
        ("dis5k", 500, 1e-4, "1024", 40),
        ("cod", 150, 1e-5, "1024", 20),
        ("hrsod", 150, 1e-5, "1024", 20),
        ("general", 200, 1e-5, "1024", 20),
        ("general_2k", 250, 1e-5, "1440x2560", 20),
        ("matting", 150, 1e-5, "1024", 10),
    ],
)
def test_the_published_recipes(name: str, epochs: float, rate: float, sizes: str, late: int) -> None:
    recipe = make_recipe(name, Basis(3000))
    assert recipe.epochs == epochs
    assert recipe.optimizer.rate == pytest.approx(rate * math.sqrt(2))  # of a batch of 8
    assert make_recipe(name, Basis(3000, batch=16)).optimizer.rate == pytest.approx(rate * 2)
    assert (recipe.data.batch, recipe.data.sizes, recipe.loss.late.epochs) == (8, sizes, late)
    assert (recipe.optimizer.schedule, recipe.optimizer.weight_decay, recipe.optimizer.decay_all) == (
        "constant",
        1e-2,
        True,
    )
    assert recipe.precision == "bfloat16"
    assert recipe.model == ModelConfig()
    assert recipe.pretrained_backbone == "hub"
    assert recipe.data.soft == (name == "matting")
    assert recipe.samples_of(3000) == epochs * 3000
    assert recipe.epochs_of(3000) == epochs


@pytest.mark.parametrize("photos", [1, 20, 50, 300, 5000, 50_000])
def test_fine_tuning_is_bounded_whatever_the_number_of_photos(photos: int) -> None:
    recipe = make_recipe("finetune", Basis(photos, ModelConfig(), (512, 384)))
    assert 1400 <= recipe.samples_of(photos) <= max(41_000, photos)
    assert recipe.data.sizes == "512x384"
    assert recipe.data.batch <= photos
    validations = recipe.samples_of(photos) / (recipe.validation.every * photos)
    assert 1 <= validations <= 60


def test_changes_are_written_as_in_toml() -> None:
    changes = parse_changes(
        [
            "optimizer.rate=1e-5",
            "data.sizes=512",
            "data.dynamic=[256, 512]",
            "data.keep_aspect=false",
            "memory.checkpoint=true",
            "model.backbone=swin_v1_t",
            "data.composition.donors=['objects']",
            "epochs=3",
            "start=none",
        ]
    )
    recipe = changed(dataclasses.replace(make_recipe("nano", Basis(10)), start="nano"), changes)
    assert recipe.optimizer.rate == 1e-5
    assert recipe.data.sizes == "512"
    assert recipe.data.dynamic == (256, 512)
    assert recipe.memory.checkpoint is True
    assert recipe.model.backbone == "swin_v1_t"
    assert recipe.data.composition.donors == ("objects",)
    assert recipe.start is None
    assert (recipe.epochs, recipe.samples) == (3, None)  # the one asked for takes the other's place


@pytest.mark.parametrize("part", ["attention", "inward", "scale_fusion", "squeeze", "norm"])
def test_none_is_a_kind_of_part_where_there_is_one_of_that_name(part: str) -> None:
    changes = parse_changes([f"model.{part}=none", "model.context_levels=0", "model.refiner=none", "samples=none"])
    recipe = changed(make_recipe("nano", Basis(10)), changes | {"epochs": 1})
    assert getattr(recipe.model, part) == "none"
    assert recipe.model.refiner is None
    assert (recipe.epochs, recipe.samples) == (1, None)


def test_a_section_that_is_not_there_begins_with_a_change() -> None:
    recipe = changed(make_recipe("finetune", Basis(100)), {"lora.rank": 4})
    assert recipe.lora is not None
    assert recipe.lora.rank == 4
    assert changed(recipe, {"lora": None}).lora is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.rat=1", r"unknown setting optimizer 'rat': did you mean 'rate'\?"),
        ("optimiser.rate=1", r"unknown setting 'optimiser': did you mean 'optimizer'\?"),
        ("optimizer.rate=fast", r"optimizer.rate: takes a number, not 'fast'"),
        ("optimizer.rate=-1", r"optimizer.rate must be from"),
        ("optimizer.ema=1", r"optimizer.ema must be from 0 to 0.999999"),
        ("optimizer.schedule=linear", r"unknown schedule 'linear': "),
        ("data.batch=2.5", r"data.batch: takes a whole number, not 2.5"),
        ("data.batch=true", r"data.batch: takes a whole number, not True"),
        ("data.sizes=100", r"every side must be a positive multiple of 32"),
        ("data.dynamic=[256]", r"data.dynamic: takes 2 values, not \[256\]"),
        ("memory.compile=1", r"memory.compile: takes true or false, not 1"),
        ("memory.accumulate=3", r"a batch of 16 cannot be parted in 3"),
        ("precision=half", r"unknown precision 'half'"),
        ("model.norm=layer", r"unknown norm 'layer'"),
        ("model=big", r"model: takes fields, not 'big'"),
        ("loss.pixel.bce=-1", r"the weight of the bce loss must be a number of 0 or more"),
        ("validation.metric=Fmax", r"unknown validation metric 'Fmax': did you mean 'maxF'\?"),
        ("validation.measures=['F', 'G']", r"unknown measure 'G'"),
        ("epochs=0", r"either of so many epochs or of so many samples, more than 0"),
        ("seed=-1", r"seed must be from 0"),
        ("compare_at=middle", r"unknown compare_at 'middle'"),
        ("name", r"a change is written as name=value"),
    ],
)
def test_impossible_changes_are_refused_in_one_line(change: str, message: str) -> None:
    recipe = make_recipe("nano", Basis(100))
    with pytest.raises(ConfigError, match=message) as caught:
        changed(recipe, parse_changes([change]))
    assert "\n" not in str(caught.value)


def test_both_lengths_are_too_many() -> None:
    with pytest.raises(ConfigError, match="either of so many epochs or of so many samples"):
        Recipe(epochs=1, samples=5)
    with pytest.raises(ConfigError, match="either"):
        Recipe()


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'general2k': did you mean 'general_2k'\?"):
        make_recipe("general2k", Basis(5))


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    with pytest.raises(ConfigError, match=r"own.toml: cannot be read as a recipe in TOML"):
        read_file(path)
    path.write_text("a = [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"own.toml: cannot be read as a recipe in TOML"):
        read_file(path)


def test_differences_are_told_by_their_full_names() -> None:
    one = make_recipe("nano", Basis(10))
    dynamic = {"data.dynamic": [64, 96], "data.keep_aspect": False}
    two = changed(one, {"optimizer.rate": 0.5, "lora.rank": 2, **dynamic})
    told = differences(one.to_dict(), two.to_dict())
    assert "optimizer.rate: 0.001 -> 0.5" in told
    assert "data.dynamic: none -> [64, 96]" in told
    assert any(line.startswith("lora: none -> ") for line in told)
    assert differences(one.to_dict(), one.to_dict()) == []


def test_which_way_a_metric_is_better() -> None:
    def direction(metric: str) -> int:
        values: dict[str, Any] = {"validation.metric": metric}
        return changed(make_recipe("nano", Basis(10)), values).validation.better_is

    assert [direction(name) for name in ("maxF", "S", "mBA", "MAE", "loss")] == [1, 1, 1, -1, -1]

"""The draft of a model card for what a run has trained: README.md of the run, in the form of the Hugging Face hub.

What the run knows is filled in. What only a person can say, such as the licence and the terms of the photos, is asked
for in the text. The card holds no paths of the machine it was written on, so that it may be published.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from birefnet._atomic import write_whole
from birefnet.config import ModelConfig
from birefnet.errors import OutputError
from birefnet.training.contact_sheet import MASKS
from birefnet.training.curves import CURVES
from birefnet.training.environment import environment
from birefnet.training.log import (
    Line,
    duration,
    flattened,
    is_lower_better,
    read_log,
    training_lines,
    validation_lines,
)

__all__ = ["CARD", "environment", "write_card"]

CARD = "README.md"
DRAFT = "README.draft.md"

_MARK = "<!-- Written by birefnet; without this line it is left alone and README.draft.md is written instead. -->"

_PATH = re.compile(r"(?<!\S)(?:[A-Za-z]:)?[/\\]\S+")

_WHOLE = frozenset({"HCE"})

# Kept apart from the recipe's table, or shown elsewhere in the card.
_APART = frozenset({"model", "name", "start", "pretrained_backbone"})


def write_card(
    run: Path,
    *,
    recipe: Mapping[str, Any],
    data: Mapping[str, Any],
    machine: Mapping[str, Any],
    parameters: int,
    weights: str,
    resume: str = "",
    lines: Sequence[Line] | None = None,
) -> Path:
    """Write the draft of a run's model card, in place of the last one unless a person has taken that over.

    Args:
        run: folder of the run. Pictures that lie in it are shown.
        recipe: what `Recipe.to_dict` gives.
        data: content of data.json: "train" and "validation", each with "photos", "drawn" or "pack" and, of several
            sets, "sets" (name -> number); "share" held out; "notes".
        machine: what `environment` gives.
        parameters: number of the network's parameters.
        weights: file name of the weights to use.
        resume: the command that goes on with the run.
        lines: the log, None to read that of the run.

    Returns:
        The file: README.md, or README.draft.md where README.md is a person's.

    Raises:
        DataError: the log is damaged.
        OutputError: the file cannot be read or written.
    """
    lines = read_log(run) if lines is None else lines
    validated = validation_lines(lines)
    parts = [
        _front_matter(recipe, validated),
        _MARK,
        f"# {_title(recipe)}",
        _summary(recipe, parameters, training_lines(lines)),
        "## Results\n\n" + _results(recipe, validated),
        *_pictures(run),
        "## Use\n\n" + _use(weights),
        "## Training\n\n" + _training(recipe, lines, machine),
        "## Data\n\n" + _data(data),
        "## To fill in\n\n" + _TO_FILL_IN,
        "## Go on\n\n" + _go_on(weights, resume, recipe),
    ]
    path = run / (CARD if _is_ours(run / CARD) else DRAFT)
    write_whole(path, ("\n\n".join(part for part in parts if part) + "\n").encode())
    return path


_TO_FILL_IN = """A person has to say, before this is published:

- [ ] **Licence** of the weights: `license:` at the top of this file. It cannot allow more than the photos' terms and
  those of the weights that the training started from.
- [ ] **Terms of the data**: where each set comes from, and what its terms allow.
- [ ] **Intended use**, and what it should not be used for.
- [ ] **Limits**: on which photos it fails; `masks.png` shows some of the worst.
- [ ] **Scores on photos that were neither trained nor tuned on**: the best weights were chosen by the validation above.
- [ ] Whether the photos in `masks.png` may be shown; otherwise remove the picture and the folder `validation/`."""


def _is_ours(path: Path) -> bool:
    """Whether a card may be replaced: there is none, or it has the mark of one that nobody took over."""
    try:
        return _MARK in path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    except UnicodeDecodeError:
        return False
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}): it is to be replaced") from error


def _front_matter(recipe: Mapping[str, Any], validated: Sequence[Line]) -> str:
    """Facts for the hub, in YAML; texts are quoted as in JSON, which YAML contains."""
    backbone = recipe.get("model", {}).get("backbone")
    tags = ["birefnet", "background-removal", "dichotomous-image-segmentation", *([backbone] if backbone else [])]
    lines = [
        "---",
        "# license: fill in, for example mit; see the end of this card",
        "library_name: birefnet",
        "pipeline_tag: image-segmentation",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
    ]
    if validated:
        names = dict.fromkeys(name.rpartition("/")[2] for name in flattened(validated[-1]["val"]))
        lines += ["metrics:", *(f"- {json.dumps(name)}" for name in names if name != "loss")]
    return "\n".join([*lines, "---"])


def _title(recipe: Mapping[str, Any]) -> str:
    return f"BiRefNet with {_backbone(recipe)}, trained by the recipe {_code(recipe.get('name', 'custom'))}"


def _summary(recipe: Mapping[str, Any], parameters: int, trained: Sequence[Line]) -> str:
    start = recipe.get("start")
    backbone = recipe.get("pretrained_backbone")
    if start:
        origin = f"fine-tuned from {_code(_public(start))}"
    elif backbone:
        known = "the published weights" if backbone == "hub" else _code(_public(backbone))
        origin = f"trained with a backbone that started from {known}"
    else:
        origin = "trained from random weights"
    text = f"A network that finds the foreground of photos: {parameters / 1e6:.1f} million parameters, {origin}."
    if trained and trained[-1]["step"] < trained[-1].get("steps", 0):
        line = trained[-1]
        text += f"\n\n**The training is not finished: step {line['step']:,} of {line['steps']:,}.**"
    return text


def _results(recipe: Mapping[str, Any], validated: Sequence[Line]) -> str:
    if not validated:
        return "There was no validation."
    last = validated[-1]
    best = next((line for line in reversed(validated) if line.get("best")), None)
    columns = [("best", best)] if best and best["step"] != last["step"] else []
    columns.append(("last, and best" if best is last else "last", last))
    header = ["measure", *(f"{name} (step {line['step']:,})" for name, line in columns)]
    values = [flattened(line["val"]) for _, line in columns]
    names = dict.fromkeys(name for each in values for name in each)
    rows = [
        [f"{name} {'↓' if is_lower_better(name) else '↑'}", *(_figure(name, each.get(name)) for each in values)]
        for name in names
    ]
    above = recipe.get("validation", {}).get("truth_above")
    note = "Measured while training, on the photos held out, with the weights that are saved"
    note += f"; levels of the truth above {above} are foreground" if above is not None else ""
    chosen = recipe.get("validation", {}).get("metric")
    note += f". The best weights are those of the best {_code(chosen)}." if chosen else "."
    return f"{_table(header, rows)}\n\n{note} ↑: higher is better, ↓: lower is better."


def _pictures(run: Path) -> list[str]:
    pictures = {
        CURVES: "Losses, validation, learning rate and speed over the steps",
        MASKS: "Validation photos, truth, prediction, and where they differ",
    }
    return [f"![{text}]({name})" for name, text in pictures.items() if (run / name).exists()]


def _use(weights: str) -> str:
    return f"""```sh
birefnet cutout photo.jpg --weights {weights}
birefnet cutout photo.jpg --model OWNER/NAME    # once it is on the hub
```

```python
import birefnet

matte = birefnet.load("{weights}").predict("photo.jpg")
matte.cutout().save("cutout.png")
```"""


def _training(recipe: Mapping[str, Any], lines: Sequence[Line], machine: Mapping[str, Any]) -> str:
    rows = [["network", _network(recipe)]]
    for name, value in recipe.items():
        if name not in _APART:
            rows += _rows(_words(name), value)
    return f"{_table(['what', 'setting'], rows)}\n\n{_course(lines)}{_machine(machine)}"


def _course(lines: Sequence[Line]) -> str:
    """How long it took, in how many sittings, as a sentence."""
    trained = training_lines(lines)
    if not trained:
        return ""
    last = trained[-1]
    text = f"{last['step']:,} steps"
    if "samples" in last:
        text += f", {last['samples']:,} images"
    if "epoch" in last:
        text += f", {last['epoch']:.4g} epochs"
    if last.get("seconds"):
        text += f", in {duration(last['seconds'])}"
    sittings = 1 + sum(line.get("event") == "resumed" for line in lines)
    skipped = sum(line.get("skipped") or 0 for line in trained)
    text += f" and {sittings} sittings" if sittings > 1 else ""
    text += f"; steps skipped for a gradient of no use: {skipped:,}" if skipped else ""
    return text + ". "


def _machine(machine: Mapping[str, Any]) -> str:
    cpu, gpus = machine.get("cpu", {}), machine.get("gpus", [])
    names = [gpu["name"] for gpu in gpus]
    where = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    where = where or f"{cpu.get('cores', '?')} cores of {cpu.get('name', 'a CPU')}"
    versions = f"birefnet {machine.get('birefnet', '?')}"
    if machine.get("commit"):
        versions += f" (commit {machine['commit'][:12]}{', changed' if machine.get('changed') else ''})"
    versions += f", PyTorch {machine.get('torch', '?')}, Python {machine.get('python', '?')}"
    return f"On {where}, with {versions}."


def _data(data: Mapping[str, Any]) -> str:
    rows = []
    for part, title in (("train", "trained on"), ("validation", "validated on")):
        facts = data.get(part)
        if not facts:
            rows.append([title, "nothing", ""])
        elif "drawn" in facts:
            rows.append([title, "drawn by the program, with exact masks", f"{facts['drawn']:,}"])
        elif "pack" in facts:
            rows.append([title, f"pack {_code(_public(facts['pack']))}", ""])
        else:
            sets = facts.get("sets") or {"photos with masks": facts["photos"]}
            rows += [[title, _code(_public(name)), f"{count:,}"] for name, count in sets.items()]
    text = _table(["", "set", "photos"], rows)
    if data.get("share") and data.get("validation"):
        text += f"\n\nThe photos validated on are {data['share']:.0%} of the set, held out of the training."
    notes = [
        _PATH.sub(lambda path: _public(path[0]), note.splitlines()[0]).rstrip(":") for note in data.get("notes", [])
    ]
    if notes:
        text += "\n\nWhat the program noted:\n\n" + "\n".join(f"- {note}" for note in notes)
    return text


def _go_on(weights: str, resume: str, recipe: Mapping[str, Any]) -> str:
    above = recipe.get("validation", {}).get("truth_above")
    threshold = f" --truth-threshold {above}" if above is not None else ""
    lines = [f"{resume}    # go on with this run, where it is not finished"] if resume else []
    lines.append(f"birefnet evaluate --weights {weights} --data DATA --measures all{threshold}")
    return "```sh\n" + "\n".join(lines) + "\n```"


def _backbone(recipe: Mapping[str, Any]) -> str:
    return str(recipe.get("model", {}).get("backbone", "an unnamed backbone"))


def _network(recipe: Mapping[str, Any]) -> str:
    """The backbone, and what else differs from the usual network."""
    usual, others = ModelConfig().to_dict(), []
    for name, value in recipe.get("model", {}).items():
        if name != "backbone" and usual.get(name) != value and not isinstance(value, Mapping):
            others.append(f"{_words(name)} {_setting(value)}")
    return ", ".join([_backbone(recipe), *others])


def _rows(name: str, value: Any) -> list[list[str]]:
    """A setting as rows of a table: nested settings of their own have rows of their own."""
    if not isinstance(value, Mapping):
        return [[name, _setting(value)]]
    nested = {key: part for key, part in value.items() if isinstance(part, Mapping)}
    single = {key: part for key, part in value.items() if key not in nested}
    rows = [[name, _setting(single)]] if single else []
    for key, part in nested.items():
        rows += _rows(f"{name}: {_words(key)}", part)
    return rows


def _setting(value: Any) -> str:
    """A setting in one line: nested ones as "name value", lists parted by commas."""
    if isinstance(value, Mapping):
        return "; ".join(f"{_words(name)} {_setting(part)}" for name, part in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_setting(part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _escaped(str(value)) if value not in ("", None) else "-"


def _figure(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if name.rpartition("/")[2] in _WHOLE else f"{value:.4f}"


def _public(name: str) -> str:
    """A name without the folders of this machine: a name of the hub stays, of a path its end is left."""
    path = PurePath(name)
    return name if not path.is_absolute() and len(path.parts) <= 2 and ".." not in path.parts else path.name


def _words(name: str) -> str:
    return _escaped(name.replace("_", " "))


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39)).replace('|', '/')}`"


def _escaped(text: str) -> str:
    """A text that is no Markdown, for the cell of a table."""
    for sign in "\\|*<`":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

"""`birefnet models`: what weights there are, which to take, and getting them."""

import contextlib
import json
import os
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click import ClickException
from rich.console import Console
from rich.table import Table

from birefnet._extras import require
from birefnet.config import InputSpec, ModelConfig, unknown_name
from birefnet.errors import BiRefNetError, ConfigError, MissingExtraError, WeightsError
from birefnet.hub import HubModel, cached_model, fetch_model, is_cached, require_licence
from birefnet.models import BUNDLED, bundled_file
from birefnet.sources import locate
from birefnet.zoo import TASKS, ZOO, ZooModel, find, recommend

HELP = {"help_option_names": ["-h", "--help"]}
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".onnx")
BUNDLED_SUMMARY = "first trials: small, fast, trained from scratch; comes with the package"
BUNDLED_TERMS = "see its card"
UNKNOWN_MEMORY_GB = 8.0
"""What is assumed where the system does not tell its memory."""


@click.group(context_settings=HELP)
def models() -> None:
    """Show, recommend and download weights."""


# --- list ---


@models.command("list", context_settings=HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def list_models(as_json: bool) -> None:
    """List the models that have a name."""
    rows = [*(bundled_facts(name) for name in BUNDLED), *(zoo_facts(model) for model in ZOO.values())]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("name", "for", "backbone", "input", "licence", "size", "here"):
        table.add_column(title, no_wrap=title not in ("for", "licence"), justify="right" if title == "size" else "left")
    for row in rows:
        table.add_row(
            row["name"],
            row["summary"],
            row["backbone"],
            shown_input(row),
            row["licence"] + ", gated" * row["gated"],
            shown_size(row["size_bytes"]),
            row["here"],
        )
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = 200  # nothing is cut in a file or a pipe
    console.print(table)


def zoo_facts(model: ZooModel) -> dict[str, Any]:
    """Everything known of published weights, as JSON values."""
    return {**model.to_dict(), "here": "cached" if is_cached(model.repo, model.revision) else "-"}


def bundled_facts(name: str) -> dict[str, Any]:
    """Everything known of a bundled model, with the keys of published ones."""
    path = bundled_file(name, ".safetensors")
    config, spec = saved_with(path)
    return {
        "name": name,
        "repo": None,
        "summary": BUNDLED_SUMMARY,
        "backbone": (config or ModelConfig()).backbone,
        "input_spec": (spec or InputSpec()).to_dict(),
        "dynamic": None,
        "tasks": ["general"],
        "licence": BUNDLED_TERMS,
        "gated": False,
        "size_bytes": path.stat().st_size,
        "here": "bundled",
    }


def shown_input(facts: dict[str, Any]) -> str:
    """Height and width of the input, or the range they may come from."""
    if facts["dynamic"]:
        low, high = facts["dynamic"]
        return f"{low} to {high}"
    height, width = facts["input_spec"]["size"]
    return f"{height} x {width}"


def shown_saved(spec: InputSpec) -> str:
    """How a file wants photos prepared."""
    height, width = spec.size
    return f"{height} x {width}, {spec.resize}" + _habits(spec)


def _habits(spec: InputSpec) -> str:
    colours = f" with {spec.balance:.0%} of a grey world's colours" if spec.balance else ""
    looks = ", proportions kept" * spec.keep_aspect + f", mirrored as well{colours}" * spec.mirror
    return looks + f", settled by a CRF of weight {spec.crf:g}" * (spec.crf > 0)


def shown_size(size_bytes: int | None) -> str:
    """Megabytes, or - where unknown."""
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.0f} MB"


# --- info ---


@models.command(context_settings=HELP)
@click.argument("name")
def info(name: str) -> None:
    """Show everything known of a model.

    NAME is one of `birefnet models list`, a backbone such as swin_v1_b (the default network on it), a repository of
    the Hugging Face hub that was downloaded (OWNER/NAME), or a file or folder.
    """
    try:
        facts, config, spec = known_of(name)
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    for key, value in facts.items():
        if value not in (None, "", [], {}):
            click.echo(f"{key}: {value}")
    try:
        for line in costs(config, spec):
            click.echo(line)
    except MissingExtraError as error:
        click.echo(f"parameters and GMACs are counted with torch: {error}")
    except BiRefNetError as error:
        click.echo(f"parameters and GMACs cannot be counted: {error}")


def known_of(name: str) -> tuple[dict[str, Any], ModelConfig | Path, InputSpec]:
    """Find a model: what to print of it, its network (or a file to find it in) and its preprocessing.

    Raises:
        BiRefNetError: nothing has this name, or the file cannot be read.
    """
    if name in BUNDLED:
        path = bundled_file(name, ".safetensors")
        config, spec = saved_with(path)
        shown = printable(bundled_facts(name))
        return {**shown, "file": path}, config or ModelConfig(), spec or InputSpec()
    path = Path(name)
    if path.is_dir():
        return known_of_file(locate(path).path)
    if path.suffix.lower() in SUFFIXES or path.is_file():
        return known_of_file(path)
    model = find(name)
    if model is not None:
        found = cached_model(model.repo, model.revision)
        where = {"file": found.weights, "commit": found.commit} if found else {}
        facts = {**printable(zoo_facts(model)), "page": model.url, **where}
        return facts, ModelConfig(backbone=model.backbone), model.input_spec
    if "/" in name:
        return known_of_repository(name)
    if find_spec("torch") is None:
        error = unknown_name("model", name, [*BUNDLED, *ZOO])
        raise ConfigError(f"{error}; backbones are known once torch is installed: run  pip install 'birefnet[torch]'")
    from birefnet.backbones import BACKBONES
    from birefnet.weights.pretrained import PRETRAINED, terms_of

    if name not in BACKBONES:
        raise unknown_name("model", name, [*BUNDLED, *ZOO, *BACKBONES])
    facts = {
        "name": name,
        "summary": "a backbone; below is the default network on it, with random weights",
        "pretrained": PRETRAINED.get(name, ""),
        "licence": "; ".join(terms_of(name)),
    }
    return facts, ModelConfig(backbone=name), InputSpec()


def printable(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts in the words of a person."""
    spec = facts["input_spec"]
    scores = facts.get("scores") or {}
    texts = [
        f"{data} " + " ".join(f"{measure} {value:g}" for measure, value in values.items())
        for data, values in scores.items()
    ]
    commercial = {None: "", True: "allowed by the licence", False: "not allowed"}[facts.get("commercial")]
    return {
        "name": facts["name"],
        "for": facts["summary"],
        "tasks": ", ".join(facts["tasks"]),
        "repository": facts["repo"],
        "also called": ", ".join(facts.get("aliases", ())),
        "backbone": facts["backbone"],
        "input": f"{shown_input(facts)}, mean {spec['mean']}, std {spec['std']}, {spec['resize']}"
        + _habits(InputSpec.from_dict(spec)),
        "licence": facts["licence"] + "; " * bool(facts.get("licence_note")) + facts.get("licence_note", ""),
        "commercial use": commercial,
        "gated": "yes: log in and accept the terms on its page first" if facts["gated"] else "",
        "size": shown_size(facts["size_bytes"]),
        "scores": "; ".join(texts),
        "source of scores": facts.get("scores_source"),
        "here": facts["here"],
    }


def known_of_repository(name: str) -> tuple[dict[str, Any], ModelConfig | Path, InputSpec]:
    """What the cache holds of a repository."""
    found = cached_model(name)
    if found is None:
        raise WeightsError(f"{name}: not in the cache; run  birefnet models download {name}")
    facts, config, spec = known_of_file(found.weights)
    return {"repository": name, "commit": found.commit, "licence": found.licence, **facts}, config, spec


def known_of_file(path: Path) -> tuple[dict[str, Any], ModelConfig | Path, InputSpec]:
    """What a weights file says of itself."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    facts: dict[str, Any] = {"file": path, "size": shown_size(size)}
    if path.suffix.lower() == ".onnx":
        from birefnet.engines.onnx_engine import OnnxEngine

        spec = OnnxEngine(path).input_spec
        return {**facts, "input": shown_saved(spec)}, path, spec
    if path.suffix.lower() != ".safetensors":
        return facts, path, InputSpec()
    header = safetensors_header(path)
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}
    facts["tensors"] = f"{len(tensors)} ({', '.join(sorted({value['dtype'] for value in tensors.values()}))})"
    config, saved = saved_with(path)
    if config is not None:
        facts["backbone"] = config.backbone
    if saved is not None:
        facts["input"] = shown_saved(saved)
    return facts, config or path, saved or InputSpec()


def safetensors_header(path: Path) -> dict[str, Any]:
    """Names, shapes and types of the tensors in a file, without torch: a length, then JSON.

    Raises:
        WeightsError: the file cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            # The format's own limit.
            header = json.loads(file.read(length)) if length <= 100_000_000 else None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is no safetensors file, or a damaged one") from error
    if not isinstance(header, dict) or not all(isinstance(value, dict) for value in header.values()):
        raise WeightsError(f"{path}: is no safetensors file, or a damaged one")
    return header


def saved_with(path: Path) -> tuple[ModelConfig | None, InputSpec | None]:
    """Configuration and preprocessing that this package saved in a file's metadata, each None where it is not there."""
    text = safetensors_header(path).get("__metadata__", {}).get("birefnet")
    try:
        values = json.loads(text) if text else {}
        config, spec = values.get("config"), values.get("input_spec")
        return (
            ModelConfig.from_dict(config) if config else None,
            InputSpec.from_dict(spec) if spec else None,
        )
    except (AttributeError, TypeError, ValueError, RecursionError) as error:  # ConfigError is a ValueError
        raise WeightsError(f"{path}: its metadata cannot be used ({error}); save the model again") from error


def costs(network: ModelConfig | Path, spec: InputSpec) -> list[str]:
    """Parameters, and multiplications at 1024 x 1024 and at the model's own size.

    Args:
        network: what to build, or a weights file to find that in.
        spec: holds the model's own size.

    Raises:
        BiRefNetError: torch is not installed, or the file does not load.
    """
    if isinstance(network, Path) and network.suffix.lower() == ".onnx":
        return []
    require("torch", extra="torch")
    import torch

    from birefnet.model import BiRefNet
    from birefnet.model.count import count_cost
    from birefnet.weights.checkpoint import read_checkpoint

    lines = []
    if isinstance(network, Path):
        network = read_checkpoint(network).config
        lines.append(f"backbone: {network.backbone}")
    with torch.device("meta"):  # shapes alone: the largest network takes no memory
        model = BiRefNet.from_config(network)
    for index, size in enumerate(dict.fromkeys([(1024, 1024), spec.size])):
        cost = count_cost(model, size)
        if index == 0:
            lines.append(f"parameters: {cost.parameters / 1e6:.1f} million")
        gigas = cost.macs / 1e9
        lines.append(f"GMACs at {size[0]} x {size[1]}: {gigas:.{0 if gigas >= 100 else 1}f}")
    return lines


# --- download ---


@models.command(context_settings=HELP)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--accept-licence", is_flag=True, help="Accept the terms of weights that are for non-commercial use only."
)
def download(names: tuple[str, ...], accept_licence: bool) -> None:
    """Download weights into the cache of the Hugging Face hub (HF_HOME), and print where they are.

    NAME is one of `birefnet models list` or a repository of the hub, OWNER/NAME. What is in the cache already is
    brought up to date. A model that cannot be had is reported at the end, and the others are downloaded all the same;
    the exit status is 1 then.
    """
    failures = []
    for name in names:
        try:
            if name in BUNDLED:
                click.echo(bundled_file(name, ".safetensors"))
                continue
            found = fetch(name, accepted=accept_licence)
        except BiRefNetError as error:
            failures.append(str(error))
            continue
        model = find(name)
        terms = f"{model.licence}; {model.licence_note}".rstrip("; ") if model else found.licence or "none stated"
        click.echo(f"{name}: licence {terms}", err=True)
        click.echo(found.weights)
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if failures:
        raise SystemExit(1)


def fetch(name: str, *, accepted: bool) -> HubModel:
    """Download a model of the zoo or of any repository.

    Raises:
        BiRefNetError: there is none of that name, its terms are not accepted, or it cannot be had.
    """
    model = find(name)
    if model is not None:
        require_licence(model, accepted)
        return fetch_model(model.repo, revision=model.revision, sha256=model.sha256, refresh=True)
    if "/" not in name:
        raise unknown_name("model", name, [*BUNDLED, *ZOO])
    return fetch_model(name, refresh=True)


# --- recommend ---


@models.command("recommend", context_settings=HELP)
@click.option("--task", type=click.Choice(TASKS), default="general", show_default=True, help="What to find.")
@click.option("--commercial", is_flag=True, help="Only weights whose licence allows commercial use.")
@click.option("--device", help="Where to run: cpu, cuda, mps.  [default: the best there is]")
def recommend_models(task: str, commercial: bool, device: str | None) -> None:
    """Say which weights suit this machine, the best choice first."""
    try:
        device, memory, description = machine(device)
        suggestions = recommend(task, memory_gb=memory, device=device, commercial=commercial)
    except BiRefNetError as error:
        raise ClickException(str(error)) from error
    click.echo(f"{description}; for {task}, on {device}:")
    for number, suggestion in enumerate(suggestions, 1):
        click.echo(f"{number}. {suggestion.model.name}: {suggestion.reason}")
    first = suggestions[0].model
    options = " --accept-licence" * (not first.commercial)
    if find_spec("torch") is None:
        click.echo("These weights run on torch: run  pip install 'birefnet[torch]'  first.")
    click.echo(f"Get the first:  birefnet models download {first.name}{options}")
    click.echo(f"Use it:         birefnet cutout PHOTO --model {first.name}{options} --device {device}")


def machine(device: str | None) -> tuple[str, float, str]:
    """Find out where to run and what is there: the device, its memory in gigabytes, and a description.

    Raises:
        ConfigError: the device is not there.
    """
    memory = main_memory_gb()
    described = f"{memory:.0f} GB of memory" if memory else f"memory unknown, taken as {UNKNOWN_MEMORY_GB:.0f} GB"
    memory = memory or UNKNOWN_MEMORY_GB
    description = f"{os.cpu_count()} processors, {described}"
    kind = (device or "").partition(":")[0]
    if kind == "cpu" or find_spec("torch") is None:
        if kind not in ("", "cpu"):
            require("torch", extra="torch")
        return "cpu", memory, description
    import torch

    if kind in ("", "cuda") and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.device(device or "cuda"))
        gpu = properties.total_memory / 1e9
        return device or "cuda", gpu, f"{description}, {properties.name} with {gpu:.0f} GB"
    if kind in ("", "mps") and torch.backends.mps.is_available():
        return "mps", memory, description  # shares the main memory
    if kind in ("cuda", "mps"):
        raise ConfigError(f"device {device!r}: torch finds none here; leave --device out, or see  birefnet doctor")
    if kind:
        raise ConfigError(f"device {device!r}: must be cpu, cuda or mps")
    return "cpu", memory, description


def main_memory_gb() -> float | None:
    """Memory of the machine, or what its container may use of it, in gigabytes; None where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total / 1e9

"""What the documentation says is true: its Python runs, its commands exist, its links lead somewhere."""

import contextlib
import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from birefnet import config
from birefnet.backbones import BACKBONES
from birefnet.cli import main
from birefnet.config import ModelConfig
from birefnet.tasks import TASKS

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
EXECUTED = [pytest.param(page, marks=pytest.mark.slow) for page in (ENGLISH, "docs/tutorial.md")] + [
    "docs/extend.md",
    "docs/metrics.md",
    pytest.param("docs/export.md", marks=pytest.mark.slow),
]
WITH_COMMANDS = [
    ENGLISH,
    CHINESE,
    "docs/extend.md",
    "docs/tutorial.md",
    "docs/metrics.md",
    "docs/data.md",
    "docs/export.md",
    "docs/finetune.md",
    "docs/training.md",
]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

FENCE = re.compile(r"^```(?P<kind>\S*) *(?P<note>.*)$")
SHOWN = re.compile(r"^ *print\(.*\)  # (.*)$")


class Block(NamedTuple):
    """A fenced block; `line` is that of its first line of code, counted from 1."""

    kind: str
    note: str
    code: str
    line: int


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    start: tuple[str, str, int] | None = None
    lines = read(page).splitlines()
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence is None:
            continue
        if start is None:
            start = (fence["kind"], fence["note"], number + 1)
            continue
        assert line == "```", f"{page}:{number + 1}"
        kind, note, first = start
        found.append(Block(kind, note, "\n".join(lines[first:number]), first + 1))
        start = None
    assert start is None, page
    return found


def prose(page: str) -> str:
    """All but the fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


def script(page: str) -> str:
    """The Python of a page that is to be run, on the lines it has there, so that a traceback names them."""
    lines = [""] * len(read(page).splitlines())
    for block in blocks(page):
        if block.kind == "python" and not block.note:
            code = block.code.splitlines()
            lines[block.line - 1 : block.line - 1 + len(code)] = code
    return "\n".join(lines)


@pytest.mark.parametrize("page", EXECUTED)
def test_python_runs_and_shows_what_is_said(page: str, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    source = script(page)
    name = Path(page).with_suffix(".py").name
    (tmp_path / name).write_text(source, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert result.stderr == ""
    shown = [match[1] for line in source.splitlines() if (match := SHOWN.match(line))]
    assert result.stdout.splitlines() == shown
    # What is said to be saved is there.
    for saved in re.findall(r'\bsave\w*\((?:[^"\n]*, )?"([^"]+)"', source):
        assert (tmp_path / saved).exists(), saved


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_python_that_is_not_run_compiles(page: str) -> None:
    for block in blocks(page):
        assert block.kind in ("python", "sh", "text", "toml", "json"), f"{page}:{block.line}"
        assert block.note in ("", "no-run"), f"{page}:{block.line}"
        if block.kind == "python":
            compile(block.code, f"{page}:{block.line}", "exec")


# --- commands ---


def shell_commands(page: str) -> Iterator[list[str]]:
    """Every command of the shell blocks and of the code within the text, as words."""
    lines = [
        line for block in blocks(page) if block.kind == "sh" for line in block.code.replace("\\\n", "").split("\n")
    ]
    lines += [code for code in re.findall(r"`([^`\n]+)`", prose(page)) if re.match(r"(birefnet|torchrun) ", code)]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("&&", "||", "|", ";"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def check_click(command: click.Command, words: list[str]) -> None:
    """Let click read the words as it would when they are typed, without running anything."""
    context = click.Context(command, info_name=command.name)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    if "--help" in words or not words:  # alone it names the command, or shows its help
        return
    with contextlib.suppress(click.MissingParameter):  # within the text a command may stand without its photo
        command.make_context(command.name, words)


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_exist_with_their_options(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    for words in shell_commands(page):
        while words and re.fullmatch(r"\w+=.*", words[0]):  # what is put into the environment
            words = words[1:]
        for i, word in enumerate(words):
            if word in ("<", ">"):
                words = words[:i]
                break
        if words[0] == "torchrun":
            assert words[words.index("-m") + 1] == "birefnet", words
            words = words[words.index("-m") + 1 :]
        if words[0] == "birefnet":
            check_click(main, words[1:])
        elif words[0] == "make":
            assert set(words[1:]) <= targets, words
        else:
            assert words[:2] == ["pip", "install"], words
            named = re.search(r"\[([\w,]+)\]", words[2])
            assert named is None or set(named[1].split(",")) <= set(extras), words


# --- links ---


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page: str) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(page)}


def headings(page: str) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


# --- tables ---


def tables(page: str) -> list[list[list[str]]]:
    """Tables as rows of cells, the heading first and without the line below it."""
    found: list[list[list[str]]] = [[]]
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[rows[0], *rows[2:]] for rows in found if rows]


def test_the_table_of_options_is_complete() -> None:
    table = next(rows for rows in tables("docs/extend.md") if rows[0][0] == "option")
    rows = {row[0].strip("`"): row[1:] for row in table[1:]}
    fields = dataclasses.fields(ModelConfig)
    assert list(rows) == [field.name for field in fields]
    choices = {
        "scale_fusion": config.SCALE_FUSIONS,
        "squeeze": config.SQUEEZES,
        "decoder_block": config.DECODER_BLOCKS,
        "attention": config.ATTENTIONS,
        "inward": config.INWARDS,
        "norm": config.NORMS,
    }
    for field in fields:
        default, allowed = rows[field.name][:2]
        assert default.strip("`") == str(field.default)
        if field.name in choices:
            assert tuple(re.findall(r"`(\w+)`", allowed)) == choices[field.name]
    named = {name for row in rows.values() for name in re.findall(r"`(\w+)`", row[3])}
    assert named == set(config._REFERENCE_OPTIONS)
    kinds = next(rows for rows in tables("docs/extend.md") if rows[0][0] == "`kind`")
    assert tuple(row[0].strip("`") for row in kinds[1:]) == config.REFINERS


@pytest.mark.parametrize("page", [ENGLISH, CHINESE])
def test_the_table_of_backbones_is_complete(page: str) -> None:
    named = re.findall(r"`(\w+)`", " ".join(row[1] for rows in tables(page) for row in rows if len(row) > 1))
    assert set(BACKBONES) <= set(named)


@pytest.mark.parametrize("page", [ENGLISH, CHINESE])
def test_the_table_of_tasks_is_that_of_the_program(page: str) -> None:
    table = next(rows for rows in tables(page) if rows[0][0] == "`--task`")
    rows = {row[0].strip("`"): row for row in table[1:]}
    assert list(rows) == list(TASKS)
    for name, preset in TASKS.items():
        _, _, model, alpha = rows[name]
        assert model == f"`{preset.model}`"
        levels = None if preset.levels is None else "--levels {:g} {:g}".format(*preset.levels)
        threshold = None if preset.threshold is None else f"--threshold {preset.threshold:g}"
        assert re.findall(r"`(.*?)`", alpha) == [option for option in (levels, threshold) if option]
        # Whose colours a cut-out has is said where it is not the object's own.
        assert preset.decontaminate == ("," not in alpha and "，" not in alpha)


# --- translation ---


def test_the_translation_has_the_same_parts() -> None:
    assert [block[:3] for block in blocks(CHINESE)] == [block[:3] for block in blocks(ENGLISH)]
    assert [level for level, _ in headings(CHINESE)] == [level for level, _ in headings(ENGLISH)]
    sizes = [[[len(row) for row in table] for table in tables(page)] for page in (ENGLISH, CHINESE)]
    assert sizes[0] == sizes[1]
    # Each links the other; the anchors of headings are in their own language.
    english, chinese = ({link for link in links(page) if not link.startswith("#")} for page in (ENGLISH, CHINESE))
    assert english - {CHINESE} == chinese - {ENGLISH}
    assert CHINESE in english
    assert ENGLISH in chinese

"""How much of the machine is told to be there to use."""

from pathlib import Path

import pytest

from birefnet import _processors
from birefnet._processors import INSTRUCTIONS, computes_bfloat16, cores, cpu_instructions, processors


def test_there_is_at_least_one_core_and_no_more_than_processors() -> None:
    assert 1 <= cores() <= processors()


def test_hardware_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(8):
        (tmp_path / str(index)).write_text(f"{index % 4},{index % 4 + 4}\n")
    monkeypatch.setattr(_processors, "_TOPOLOGY", str(tmp_path / "{}"))
    monkeypatch.setattr(_processors, "_QUOTA", tmp_path / "none")
    monkeypatch.setattr(_processors.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores() == 4
    monkeypatch.setattr(_processors.os, "sched_getaffinity", lambda _: {1, 2, 5}, raising=False)
    assert cores() == 2
    # Where nothing tells, each is a core.
    monkeypatch.setattr(_processors, "_TOPOLOGY", str(tmp_path / "none" / "{}"))
    assert cores() == 3


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("", 4), ("800000 100000", 4)]
)
def test_a_containers_quota_of_time_is_kept_to(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(_processors, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(_processors, "_TOPOLOGY", str(tmp_path / "none" / "{}"))
    monkeypatch.setattr(_processors.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert cores() == expected


@pytest.mark.parametrize(
    ("text", "expected", "bfloat16"),
    [
        ("model name\t: some\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", ("AVX2", "AVX512", "AVX512-BF16"), True),
        ("flags : avx2 avx_vnni amx_bf16 amx_int8\n", ("AVX2", "VNNI", "AMX-BF16", "AMX-INT8"), True),
        ("flags : avx2 avx_vnni\n", ("AVX2", "VNNI"), False),
        ("Features\t: fp asimd asimddp bf16\n", ("NEON", "ARM-BF16", "ARM-INT8"), True),
        ("nothing of the kind", (), None),
    ],
)
def test_instructions_are_read_from_what_linux_tells(
    text: str, expected: tuple[str, ...], bfloat16: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(_processors, "_CPU_FACTS", tmp_path / "cpuinfo")
    assert cpu_instructions() == expected
    assert computes_bfloat16() is bfloat16
    assert set(expected) <= set(INSTRUCTIONS)


def test_without_such_files_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processors, "_CPU_FACTS", tmp_path / "none")
    assert cpu_instructions() == ()

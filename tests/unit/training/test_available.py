"""What memory this machine has, from files as Linux writes them."""

from pathlib import Path

import torch

from birefnet.training.available import available_memory

CPU = torch.device("cpu")
GIB = 2**30


def machine(root: Path, available_gib: float, cgroup: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:  99999999 kB\nMemAvailable: {int(available_gib * 2**20)} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_available_memory_of_a_plain_machine(tmp_path: Path) -> None:
    assert available_memory(CPU, machine(tmp_path, 8, "0::/user.slice\n")) == 8 * GIB


def test_available_memory_within_control_groups(tmp_path: Path) -> None:
    root = machine(tmp_path, 8, "0::/outer/inner\n")
    groups = root / "sys/fs/cgroup"
    group(groups / "outer/inner", memory__max="max", memory__current=GIB)
    group(groups / "outer", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=f"anon 5\ninactive_file {GIB}")
    assert available_memory(CPU, root) == 2 * GIB


def test_available_memory_within_old_control_groups(tmp_path: Path) -> None:
    root = machine(tmp_path, 8, "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n")
    limits = {"memory__limit_in_bytes": 3 * GIB, "memory__usage_in_bytes": 2 * GIB}
    group(root / "sys/fs/cgroup/memory", **limits)  # a container does not see the path of its host
    assert available_memory(CPU, root) == GIB


def test_available_memory_here() -> None:
    available = available_memory(CPU)
    assert available is None or 10_000_000 < available < 2**50

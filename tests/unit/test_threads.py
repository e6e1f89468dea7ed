import signal
import subprocess
import sys
import time

import pytest

from birefnet._threads import in_parallel
from birefnet.errors import DataError


@pytest.mark.parametrize("jobs", [None, 1, 3, 50])
def test_everything_is_done_once(jobs: int | None) -> None:
    done, told = [], []

    def work(item: str) -> str:
        done.append(item)
        return item.upper()

    items = "abcdefghijklmnopqrst"
    assert in_parallel(work, items, lambda: told.append(None), jobs) == list(items.upper())
    assert sorted(done) == list(items)
    assert len(told) == 20


def test_nothing_to_do() -> None:
    assert in_parallel(pytest.fail, []) == []


def test_an_error_stops_the_rest() -> None:
    done = []

    def work(index: int) -> None:
        if index == 3:
            raise DataError("broken")
        time.sleep(0.001)
        done.append(index)

    with pytest.raises(DataError, match="broken"):
        in_parallel(work, range(100_000))
    assert len(done) < 1000


def test_ctrl_c_ends_it() -> None:
    program = (
        "import time; from birefnet._threads import in_parallel\n"
        "print('begun', flush=True)\n"
        "try:\n"
        "    in_parallel(lambda _: time.sleep(0.0001), range(10**7))\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
    )
    for wait in (0.0, 0.01, 0.02, 0.05, 0.1):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.05 + wait)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert (output, process.returncode) == ("stopped\n", 0)

"""The other end of a worker's pipes: a process that is asked, answers, and may die."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any, Self

from birefnet.errors import LostProcessError

_PATIENCE = 5.0
_LAST = 400


class WorkerError(LostProcessError):
    """What a worker was asked for went wrong there, or it has died; the message is a line for a person."""


class Process:
    """A fresh Python process that runs `birefnet.bench.worker`; a context manager, which ends it.

    Args:
        threads: a limit that libraries read from the environment when they start, None for their own default.
    """

    def __init__(self, threads: int | None = None) -> None:
        limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            # -P: what lies in the current folder is no module of ours, whatever it is called.
            [sys.executable, "-P", "-m", "birefnet.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **limits},
            encoding="utf-8",
            # Ctrl-C goes to this process alone, which then ends its workers; without it they would end by themselves.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have something done, and wait for the answer; see `birefnet.bench.worker.Worker`.

        Raises:
            WorkerError: it went wrong, or the process has died.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.write(json.dumps({"do": do, **arguments}) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):  # nothing, or a part
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # what was not read any more
                continue
        self._process.wait()
        self._said.close()

    def _last_words(self) -> str:
        """Why the process has died, in one line."""
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return "the process answers no more, though it has not ended"
        if code == -signal.SIGKILL:
            return "the process was killed, as the system does where memory runs out; choose a smaller size"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1][-_LAST:] if lines else "it said nothing"
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return f"the process has died ({how}: {reason})"

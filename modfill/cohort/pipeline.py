"""A cohort through one completion: while one case is computed, the next is read and the one before is written.

Every case is locked from reading to writing, so that several processes can share a cohort. `locks` lists the file
systems on which this works. On others, no two processes may be given the same case.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modfill.atomic import writable
from modfill.cases.files import CaseFiles
from modfill.cohort.locks import FileLock, case_lock, take
from modfill.cohort.table import COLUMNS, require_own_table, row_of, update_table
from modfill.completion import Completion
from modfill.errors import CaseError, ModfillError, WeightsError
from modfill.outputs.naming import OutputFolder
from modfill.process import ThreadShare, in_a_hurry
from modfill.results import CaseResult
from modfill.settings import whole_number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CohortResults", "run_cohort"]

_LOG = logging.getLogger("modfill")

_PAUSE = 0.2  # seconds between two searches for a case that no other process has locked
_WRITE_TIMEOUT = 1.0  # seconds for files that are being written when the run is interrupted
_AHEAD = 2  # cases besides those being computed: one is read, one is written


@dataclass(eq=False)
class _CaseRun:
    """One case on its way through the threads. Its first error ends it."""

    files: CaseFiles
    lock: FileLock | None  # None where it failed before it could write
    value: Any = None
    error: Exception | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def go(self, name: str, stage: Callable[[Any], Any]) -> None:
        if self.error is not None:
            return
        began = time.perf_counter()
        try:
            self.value = stage(self.value)
        except WeightsError:  # every other case would fail too
            raise
        except Exception as error:  # no error of one case may stop the others
            self.value, self.error = None, error
        self.seconds[name] = time.perf_counter() - began
        _LOG.debug("case %s: %s, %.1f s", self.files.case_id, name, self.seconds[name])

    def result(self) -> CaseResult:
        spent = self.seconds
        return CaseResult(self.files.case_id, self.value, self.error, sum(spent.values()), spent.get("compute", 0.0))


class CohortResults(Iterator[CaseResult]):
    """The results of a cohort as they come, each when its case is done.

    Args:
        results: yields each once.
        total: number of cases.
    """

    def __init__(self, results: Generator[CaseResult, None, None], total: int):
        self._results, self.total = results, total
        self._rows: list[dict[str, str]] = []

    def __next__(self) -> CaseResult:
        result = next(self._results)
        self._rows.append(row_of(result))
        return result

    def close(self) -> None:
        """End the run: cases under way are finished, or abandoned after an interrupt."""
        self._results.close()

    def to_frame(self) -> pd.DataFrame:
        """Wait for all cases. Gives a row for each, those that were iterated over before too.

        Returns:
            The columns of `cohort.csv`: `case`, `status` (completed, nothing missing, failed), `targets`, `seconds`,
            `expected_psnr` in dB, `sha256` and `reason`; several values in a cell are separated by blanks.
        """
        import pandas as pd

        for _ in self:
            pass
        frame = pd.DataFrame(self._rows, columns=list(COLUMNS))
        frame["seconds"] = pd.to_numeric(frame["seconds"])
        return frame


def run_cohort(
    found: Sequence[CaseFiles],
    out: OutputFolder,
    completion: Completion,
    *,
    jobs: int,
    finish: Callable[[], None] = lambda: None,
) -> CohortResults:
    """Take every case through a completion.

    A case that another process has locked is tried again later. At most `jobs` + 2 cases are in memory.

    Args:
        found: the cases.
        out: where outputs go; it gets the locks and the cohort's table.
        completion: writes to `out`.
        jobs: cases computed at the same time.
        finish: called when the last case is done, before its result is given.

    Raises:
        SettingsError: `jobs` is less than 1; at once, not when the first result is asked for.
        ModfillError: the folder cannot be made, or another table lies in it; at once too.
    """
    jobs = whole_number("jobs", jobs, 1)
    require_own_table(out.path)
    with writable(out.path):
        out.path.mkdir(parents=True, exist_ok=True)
    return CohortResults(_results(found, out, completion, jobs, finish), len(found))


def _results(
    found: Sequence[CaseFiles], out: OutputFolder, completion: Completion, jobs: int, finish: Callable[[], None]
) -> Generator[CaseResult, None, None]:
    run = _Run(out, completion, ThreadShare(jobs), deque(found))
    pools = [ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(jobs, "compute"), ThreadPoolExecutor(1, "write")]
    under_way: deque[Future[CaseResult]] = deque()
    try:
        for _ in found:
            if len(under_way) == jobs + _AHEAD:
                yield under_way.popleft().result()
            under_way.append(run.start(*pools))
        while len(under_way) > 1:
            yield under_way.popleft().result()
        last = [future.result() for future in under_way]  # none if there are no cases
        finish()
        yield from last
    finally:
        # after an interrupt, the case that is being computed is not waited for: it takes minutes
        run.stop(pools, wait=not in_a_hurry())
        run.threads.restore()


@dataclass(eq=False)
class _Run:
    """One process's work on a cohort.

    Attributes:
        waiting: cases that have not been started; only the reading thread touches them.
        held: the locks of the cases under way.
        stopped: set when no further results are wanted.
        abandoned: set when the cases under way are not wanted either.
        holding: held while a case's lock is taken or released.
        writing: held by the thread that writes files.
    """

    out: OutputFolder
    completion: Completion
    threads: ThreadShare
    waiting: deque[CaseFiles]
    held: set[FileLock] = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)
    abandoned: threading.Event = field(default_factory=threading.Event)
    holding: threading.Lock = field(default_factory=threading.Lock)
    writing: threading.Lock = field(default_factory=threading.Lock)

    def stop(self, pools: Sequence[ThreadPoolExecutor], wait: bool) -> None:
        """End all stages and release the locks.

        Args:
            pools: the stages' threads.
            wait: for the stages under way too, not only for files that are being written.
        """
        self.stopped.set()
        if not wait:
            self.abandoned.set()
        for pool in pools:
            pool.shutdown(wait, cancel_futures=True)
        if self.writing.acquire(timeout=_WRITE_TIMEOUT):  # after that nothing is written any more
            self.writing.release()
        with self.holding:  # after that no lock is taken any more
            locks = list(self.held)
        for lock in locks:
            self._release(lock)

    def _release(self, lock: FileLock | None) -> None:
        """Release a lock, unless that has been done."""
        with self.holding:
            if lock in self.held:
                self.held.remove(lock)
                lock.release()

    def start(
        self, reading: ThreadPoolExecutor, computing: ThreadPoolExecutor, writing: ThreadPoolExecutor
    ) -> Future[CaseResult]:
        """Queue the stages of one case. The reading thread chooses the case when it starts."""
        read = reading.submit(self._read)
        computed = computing.submit(lambda: self._compute(read.result()))
        return writing.submit(lambda: self._write(computed.result()))

    def _read(self) -> _CaseRun:
        case_run = self._next()
        case_run.go("read", self.completion.read)
        return case_run

    def _compute(self, case_run: _CaseRun) -> _CaseRun:
        if self.stopped.is_set():
            raise InterruptedError
        if case_run.error is None and self.completion.has_work(case_run.value):
            self.threads.take()
        case_run.go("compute", self.completion.synthesise)
        return case_run

    def _write(self, case_run: _CaseRun) -> CaseResult:
        try:
            with self.writing:
                if self.abandoned.is_set():
                    raise InterruptedError
                case_run.go("write", self.completion.write)
                result = case_run.result()
                try:
                    update_table(self.out, row_of(result))
                except (ModfillError, OSError) as error:
                    result = replace(result, completed=None, error=result.error or error)
            return result
        finally:
            self._release(case_run.lock)

    def _next(self) -> _CaseRun:
        """The next case that no other process has locked. Waits for one if necessary."""
        while not self.stopped.is_set():
            for _ in range(len(self.waiting)):
                files = self.waiting.popleft()
                if files.problem:  # nothing will be written, and the id may be no name
                    return _CaseRun(files, None, files)
                try:
                    lock = self._hold(files)
                except CaseError as error:
                    return _CaseRun(files, None, error=error)
                if lock is not None:
                    return _CaseRun(files, lock, files)
                self.waiting.append(files)
            self.stopped.wait(_PAUSE)
        raise InterruptedError

    def _hold(self, files: CaseFiles) -> FileLock | None:
        """Take a case's lock, or return None if another process holds it.

        Raises:
            InterruptedError: the run has been stopped, and would not release it.
        """
        with self.holding:
            if self.stopped.is_set():
                raise InterruptedError
            lock = self._lock(files)
            if lock is not None:
                self.held.add(lock)
            return lock

    def _lock(self, files: CaseFiles) -> FileLock | None:
        with writable(self.out.path, CaseError, case=files.case_id):
            return take(case_lock(self.out.path, files.case_id))

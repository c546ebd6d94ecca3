"""Work beside the loop: pictures are written in threads, and rows follow once their pictures are complete."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

_MOST_THREADS = 4


class BackgroundWork:
    """Jobs that run in threads, and steps that follow them in order.

    A step waits for all jobs that were submitted before it, and for the steps before it. Nothing that depends on a job
    is therefore done before the job. Without unfinished jobs or steps, a step is done at once. After an error no
    further step is done, and the error is raised by the next call.

    Args:
        threads: number of threads for jobs; None for half of the processor cores, at most 4.
        steps: number of unfinished steps at which ``then`` waits for the oldest. It bounds the memory.
    """

    def __init__(self, threads: int | None = None, steps: int = 2) -> None:
        self._threads = threads or max(1, min(_MOST_THREADS, (os.cpu_count() or 2) // 2))
        self._most = steps
        self._jobs: list[Future[None]] = []
        self._steps: deque[Future[None]] = deque()
        self._job_threads: ThreadPoolExecutor | None = None
        self._step_thread: ThreadPoolExecutor | None = None
        self._error: BaseException | None = None
        self._raised = False

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job in a thread.

        Raises:
            BaseException: the error of an earlier job or step.
        """
        self._raise_error()
        if self._job_threads is None:
            self._job_threads = ThreadPoolExecutor(self._threads, thread_name_prefix="drawing")
        self._jobs.append(self._job_threads.submit(job))

    def then(self, step: Callable[[], None]) -> None:
        """Do a step after all jobs and steps so far: now if there are none, else in a thread.

        Raises:
            BaseException: the error of an earlier job or step, or of this step if it is done now.
        """
        self._raise_error()
        jobs, self._jobs = self._jobs, []
        while self._steps and (self._steps[0].done() or len(self._steps) >= self._most):
            wait([self._steps.popleft()])
        self._raise_error()
        if not jobs and not self._steps:
            step()
            return
        if self._step_thread is None:
            self._step_thread = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._steps.append(self._step_thread.submit(self._follow, jobs, step))

    def drain(self) -> None:
        """Wait for all jobs and steps, and end the threads.

        Raises:
            BaseException: the error of a job or step that has not been raised yet.
        """
        while self._steps:
            wait([self._steps.popleft()])
        jobs, self._jobs = self._jobs, []
        wait(jobs)
        for executor in (self._job_threads, self._step_thread):
            if executor is not None:
                executor.shutdown()
        self._job_threads = self._step_thread = None
        self._error = self._error or next((job.exception() for job in jobs if job.exception() is not None), None)
        if not self._raised:
            self._raise_error()

    def _follow(self, jobs: list[Future[None]], step: Callable[[], None]) -> None:
        wait(jobs)
        if self._error is None:
            try:
                for job in jobs:
                    job.result()
                step()
            except BaseException as error:
                self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            self._raised = True
            raise self._error

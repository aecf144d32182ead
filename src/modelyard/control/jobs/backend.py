"""The interface of django-tasks over the table of jobs: `@task` functions are queued here and done by the runner.

Own services queue by dotted name, because the web process never imports a `work` module. This is for code that speaks
the interface: a task of any installed app is a job like others, with its lease, retries, limits and log.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from django_tasks.backends.base import BaseTaskBackend
from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
from django_tasks.exceptions import TaskResultDoesNotExist

from modelyard.contract.errors import InvalidInput, NotFound
from modelyard.control.jobs.models import Job
from modelyard.control.jobs.services import enqueue, find_job

_STATUS = {
    Job.Status.QUEUED: TaskResultStatus.READY,
    Job.Status.RUNNING: TaskResultStatus.RUNNING,
    Job.Status.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    Job.Status.FAILED: TaskResultStatus.FAILED,
    Job.Status.CANCELLED: TaskResultStatus.FAILED,
}


class JobBackend(BaseTaskBackend):
    """Tasks as jobs. OPTIONS: max_attempts, timeout_s, memory_bytes of each, and `by`, who asks."""

    supports_defer = True
    supports_get_result = True

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Queue a task. Raises Overloaded when a thousand jobs wait already."""
        self.validate_task(task)
        options = {"by": "task", **self.options}
        job = enqueue(
            task.module_path,
            {"args": list(args), "kwargs": dict(kwargs)},
            run_after=task.run_after,
            is_task=True,
            **options,
        )
        return self._result(job, task)

    def get_result(self, result_id: str) -> TaskResult:
        """How a task goes. Raises TaskResultDoesNotExist."""
        try:
            job = find_job(int(result_id))
            return self._result(job, task_named(job.work))
        except (NotFound, InvalidInput, ValueError):
            raise TaskResultDoesNotExist(result_id) from None

    def _result(self, job: Job, task: Task) -> TaskResult:
        result: TaskResult = TaskResult(
            task=task,
            id=str(job.pk),
            status=_STATUS[Job.Status(job.status)],
            enqueued_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            last_attempted_at=job.started_at,
            args=job.arguments.get("args", []),
            kwargs=job.arguments.get("kwargs", {}),
            backend=self.alias,
            errors=[TaskError(exception_class_path="builtins.RuntimeError", traceback=job.error)] if job.error else [],
            worker_ids=[job.runner or "runner"] * job.attempt,
        )
        object.__setattr__(result, "_return_value", job.result)
        return result


def task_named(name: str) -> Task:
    """The task of that dotted name. Raises InvalidInput for what is none: a row in a table cannot name any function."""
    module, _, function = name.rpartition(".")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError):
        raise InvalidInput(f"there is no task {name!r}") from None
    if not isinstance(found, Task):
        raise InvalidInput(f"{name!r} is not a task")
    return found


def do_task(job: Job) -> Any:
    """Call the task of a claimed job; what it returns is JSON."""
    task = task_named(job.work)
    args, kwargs = job.arguments["args"], job.arguments["kwargs"]
    if task.takes_context:
        return task.call(TaskContext(task_result=task.get_backend().get_result(str(job.pk))), *args, **kwargs)
    return task.call(*args, **kwargs)

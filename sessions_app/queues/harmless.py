"""RQ as its own pages and commands use it in our processes: it reads JSON alone, and calls nobody back.

Its default is pickle, and its pages, its registries and its workers take that in places to which no setting reaches: to
look at a job would run what it holds. Registries that are looked at call what a job names as its callback, too. So
whoever could write to Redis could run anything in the web process. Nothing of ours is pickled, and no job of ours has a
callback.
"""

from rq.job import Job
from rq.serializers import JSONSerializer, PickleSerializer


def make_rq_harmless() -> None:
    """Have nothing in this process unpickle what stands in Redis, or call a function that a job names for later."""
    PickleSerializer.loads = JSONSerializer.loads
    for name in ("success_callback", "failure_callback", "stopped_callback"):
        setattr(Job, name, property(_nobody))


def _nobody(_job: Job) -> None:
    """Whom a job has called back."""

"""What a job lets the engine take."""

from nimad.target.database import Limits
from nimad.worker.job import Job


def limits_of(job: Job) -> Limits:
    return Limits(job.pool_bytes, job.address_space_bytes, job.threads)

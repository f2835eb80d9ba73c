"""The rows of a job, read from SQLite and converted."""

from collections.abc import Iterator

from nimad.source import rows as source_rows
from nimad.source.rows import ConvertedRows, Reject, Rows
from nimad.source.schema import Schema
from nimad.source.sqlite_file import SourceFile
from nimad.worker.protocol import Job


def convert(job: Job, rows: Rows, schema: Schema) -> ConvertedRows:
    """What becomes of rows, by all that the job knows of them."""
    table = rows.table.name
    return source_rows.convert_rows(rows, schema, job.isolated_of(table), job.refused_of(table))


def convert_range(job: Job) -> ConvertedRows:
    schema, wanted = job.needs(), job.range
    if wanted is None:
        raise ValueError(f"a {job.task} job without a range")
    table = schema.table(wanted.table)
    rows = SourceFile(job.source_path()).read(lambda c: source_rows.read_range(c, table, wanted))
    return convert(job, rows, schema)


def convert_ids(job: Job, schema: Schema) -> ConvertedRows:
    table = schema.table(job.table)
    rows = SourceFile(job.source_path()).read(lambda c: source_rows.read_ids(c, table, job.ids))
    return convert(job, rows, schema)


def convert_slices(job: Job) -> Iterator[ConvertedRows]:
    """The rows of a large range, as many at a time as verification compares at once."""
    schema, wanted = job.needs(), job.range
    assert wanted is not None  # noqa: S101 - else it is not large
    table, whole = schema.table(wanted.table), (wanted.after, wanted.upto)
    source = SourceFile(job.source_path())
    for _, rows in source_rows.read_slices(source, table, whole, job.chunk_rows, job.chunk_bytes):
        yield convert(job, rows, schema)


def convert_strays(job: Job) -> list[Reject]:
    if not job.strays or job.range is None:
        return []
    table = job.needs().table(job.range.table)
    rows = SourceFile(job.source_path()).read(lambda c: source_rows.read_strays(c, table))
    return source_rows.convert_strays(rows)

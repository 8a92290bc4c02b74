"""Parquet files with a format number: written whole, and damage is named when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from testbed.records.files import RawFormatError, whole


def schema_of(name: str, version: int, fields: Sequence[pa.Field]) -> pa.Schema:
    """The schema of a format; its number stands in the metadata."""
    return pa.schema(fields, metadata={_key(name): str(version).encode()})


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table whose schema has its format's number; its pages carry checksums."""
    with whole(path) as beside:
        pq.write_table(table, beside, compression="zstd", write_page_checksum=True)


def read_table(path: Path, name: str, schema: pa.Schema) -> pa.Table:
    """The table of a format in a file; one without a number is of the first version.

    Raises RawFormatError for a file that is damaged, has another format or another version.
    """
    kind = f"a parquet file of {name}"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError) as error:
        raise RawFormatError(str(path), _words(error), kind) from error
    _check_version(path, table.schema, name, schema)
    missing = [column for column in schema.names if column not in table.schema.names]
    if missing:
        version = (schema.metadata or {})[_key(name)].decode()
        expected = f"format {version} of {name}, which has {missing} too"
        raise RawFormatError(f"{path}: columns", table.schema.names, expected)
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise RawFormatError(str(path), _words(error), kind) from error
    holes = [f.name for f in schema if not f.nullable and table.column(f.name).null_count]
    if holes:
        raise RawFormatError(f"{path}: columns", holes, "a value in each of their rows")
    return table


def _check_version(path: Path, found: pa.Schema, name: str, schema: pa.Schema) -> None:
    expected = (schema.metadata or {})[_key(name)].decode()
    version = (found.metadata or {}).get(_key(name), b"1").decode(errors="replace")
    if version != expected:
        newer = version.isdecimal() and int(version) > int(expected)
        why = ": it was written by a newer version of deftbed" if newer else ""
        raise RawFormatError(f"{path}: format", version, f"{expected}{why}")


def _key(name: str) -> bytes:
    return f"deftbed.{name}.format".encode()


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or "damaged"

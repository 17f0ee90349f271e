"""Options of jobs (``unrolled generate --input``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from unrolled.cli.options.groups import OptionGroup
from unrolled.engine.data.readers.table_format import TableFormat
from unrolled.engine.settings import SettingTable
from unrolled.runtime.jobs.job import Job

JOB_SETTINGS = SettingTable(Job, TableFormat)
NEEDS_INPUT = tuple(name for name in JOB_SETTINGS.definitions if name != "input")  # have no effect without --input
JobOptions = Annotated[Mapping[str, Any], OptionGroup(JOB_SETTINGS)]

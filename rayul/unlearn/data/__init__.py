"""Rows and the sets they stand in: what to forget, what to keep, what to judge by.

| set | used by |
| --- | --- |
| forget | the unlearning loss; forget metrics |
| retain_train | the retain term of a loss |
| retain | criteria and objectives ("retain-select") |
| retain_certify | the certificate only, once |
| retain_report | the final report only |
| general | utility outside the subject of the data |
| holdout | rows that no model was trained on (membership inference) |
| <probe>, <probe>_forget, <probe>_retain | criteria and objectives; never trained on |
| <probe>_certify, <probe>_report and the same of <probe>_retain | as retain_certify and retain_report |
| real_authors, world_facts | TOFU's two parts of general, apart, for its model utility |
"""

from rayul.unlearn.data.alike import nearly_same
from rayul.unlearn.data.choices import LETTERS
from rayul.unlearn.data.files import FILES, RESERVE_FILE, column_names, read_folder, read_records, read_rows, write_rows
from rayul.unlearn.data.probes import CHAT, probe_sets
from rayul.unlearn.data.row import Chunk, Row, Sets, Window, group_numbers
from rayul.unlearn.data.source import read_source
from rayul.unlearn.data.sources import load_sets, reserved
from rayul.unlearn.data.split import split_by_group

__all__ = [
    "CHAT",
    "FILES",
    "LETTERS",
    "RESERVE_FILE",
    "Chunk",
    "Row",
    "Sets",
    "Window",
    "column_names",
    "group_numbers",
    "load_sets",
    "nearly_same",
    "probe_sets",
    "read_folder",
    "read_records",
    "read_rows",
    "read_source",
    "reserved",
    "split_by_group",
    "write_rows",
]

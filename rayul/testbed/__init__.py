"""The embedded default: fictional authors, a small model that memorised them, and its oracle."""

from rayul.testbed.build import build
from rayul.testbed.cache import ensure_testbed
from rayul.testbed.resolve import with_testbed
from rayul.testbed.write import ungrouped, write_testbed, write_testbed_from_data

__all__ = [
    "build",
    "ensure_testbed",
    "ungrouped",
    "with_testbed",
    "write_testbed",
    "write_testbed_from_data",
    "write_testbed_on_base",
]

"""What this install has, lacks, and what to do about it: `python -m harness doctor`.

Imports nothing but the standard library, so that it runs where the install is broken.
"""

from harness.doctor.examine import GROUPS, examine, report
from harness.doctor.line import Line

__all__ = ["GROUPS", "Line", "examine", "report"]

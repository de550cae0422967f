"""What every method keeps to, checked on a tiny random model of each family: `python -m harness check`."""

from harness.contract.examine import check_method
from harness.contract.report import Finding, Report

__all__ = ["Finding", "Report", "check_method"]

"""Plain data in, things to look at out: records, their store, tables and plots."""

from results.record import CaseFacts, Estimate, Record
from results.run import Run, open_run
from results.run_folder import RunFolder
from results.store import Store, StoreError
from results.tables.table import Table

__all__ = ["CaseFacts", "Estimate", "Record", "Run", "RunFolder", "Store", "StoreError", "Table", "open_run"]

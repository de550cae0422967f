"""Plain data in, things to look at out: records, their store, tables and plots."""

from results.record import Estimate, Record
from results.store import Store, StoreError
from results.tables.table import Table

__all__ = ["Estimate", "Record", "Store", "StoreError", "Table"]

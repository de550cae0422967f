"""Statistics on records: intervals, paired differences, fronts, names of points."""

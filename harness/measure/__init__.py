"""What an operating point costs (compute, seconds, bytes) and on which machine; imports nothing of ours."""

VERSION = 8
"""Of what is measured and how. Raise it where a change makes another figure of the same run: measured points of older
versions run again and share no front with newer ones. Covers this package, `harness/cost.py`,
`harness/timing.py` and `harness/modes.py`."""

"""Whatever a file holds, its reader gives something or says in one line what is wrong. In full: benchmarks/fuzz.py."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import KNOWN, READERS, Reader

QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@QUICK
@given(data=st.data())
def test_a_reader_knows_what_it_cannot_read(reader: Reader, data: st.DataObject) -> None:
    content = data.draw(reader.inputs)
    with TemporaryDirectory() as folder:
        try:
            reader.read(content, Path(folder))
        except KNOWN as error:
            assert str(error).strip()

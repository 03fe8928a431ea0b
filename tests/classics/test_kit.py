"""Each classic passes the kit that is for everybody's plugins."""

from __future__ import annotations

import pytest
from support.classics import LISTS, TEACHERLESS, digits

from stillhouse.testing import check_plugin

DATA = {"name": "sklearn:digits", "batch_size": 10}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LISTS))
def test_it_passes_the_kit(name: str):
    tables = {"teacher": None} if name in TEACHERLESS else {}
    report = check_plugin(name, recipe=digits(*LISTS[name], data=DATA, **tables))
    assert [(outcome.check, outcome.findings) for outcome in report.outcomes if outcome.findings] == []

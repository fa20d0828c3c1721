"""The ids of tests are the same in every process: pytest-xdist shares tests out by them."""

import re

import pytest

from tests.conftest import process

# what differs between processes: addresses, temporary folders, gzip headers with a time
FLEETING = re.compile(r"0x[0-9a-f]{6,}|/tmp/|pytest-of-|\\x1f\\x8b(?!\\x08\\x00\\x00\\x00\\x00\\x00)")


def test_nothing_fleeting_stands_in_an_id(request):
    assert [item.nodeid for item in request.session.items if FLEETING.search(item.nodeid)] == []


@pytest.mark.slow
def test_two_processes_collect_the_same_tests_in_the_same_order():
    """With other hashes, another time zone and seconds apart."""
    ids = []
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        env = {"PYTHONHASHSEED": seed, "TZ": zone}
        done = process("-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider", env=env)
        assert done.returncode == 0, done.stdout[-2000:]
        ids.append([line for line in done.stdout.splitlines() if "::" in line])
    assert len(ids[0]) > 4000 and len(set(ids[0])) == len(ids[0])
    assert ids[0] == ids[1]

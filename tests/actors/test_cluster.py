"""The parts of a cluster's checks that need no cluster."""

import time

from actors import cluster


def test_a_probe_that_cannot_be_read_makes_the_node_blind_at_once(tmp_path):
    (tmp_path / "probe").write_text("token")
    assert cluster._read._function(str(tmp_path / "probe")) == "token"
    started = time.monotonic()
    assert cluster._read._function(str(tmp_path)) is None  # a folder: an OSError, as no permission
    assert time.monotonic() - started < 5

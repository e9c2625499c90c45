"""What holds in one process; several are tried where they are started, with what they run."""

from experiments.engine.distributed import gather_bytes


def test_bytes_of_a_process_that_is_alone_are_its_own():
    assert gather_bytes(b"some") == [b"some"]
    assert gather_bytes(b"") == [b""]

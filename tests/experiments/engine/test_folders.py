from pathlib import Path

from experiments.engine.folders import Folders


def test_the_default_cache_is_where_caches_go(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Folders().cache == tmp_path / "carafe-jax" / "packages"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Folders().cache == Path("/home/somebody/.cache/carafe-jax/packages")

from pathlib import Path

from experiments.engine.folders import Folders


def test_the_default_cache_follows_the_xdg_convention(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Folders().cache == tmp_path / "carafe-jax" / "packages"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Folders().cache == Path("/home/somebody/.cache/carafe-jax/packages")

"""Builds wheel and sdist, and runs the first example of the README from each, installed alone.

Needs a network or a pip cache, hence a command of its own: `make check-dist`.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.documents import README, examples, expected_output

EXPECTED_TOP_LEVEL = {"carafe_jax", "carafe_kernels"}


def main() -> None:
    """Raises or exits with a message if a distribution is wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = [sys.executable, "-m", "build", "--outdir", str(folder), str(README.parent)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        names = zipfile.ZipFile(wheel).namelist()
        top_level = {name.split("/")[0] for name in names if ".dist-info" not in name}
        if top_level != EXPECTED_TOP_LEVEL:
            sys.exit(f"expected {EXPECTED_TOP_LEVEL} at the top of {wheel.name}, got {top_level}")
        for package in EXPECTED_TOP_LEVEL:
            if f"{package}/py.typed" not in names:
                sys.exit(f"{wheel.name} lacks {package}/py.typed")
        with tarfile.open(sdist) as archive:
            if not any(name.endswith("/kernels/README.md") for name in archive.getnames()):
                sys.exit(f"{sdist.name} lacks kernels/README.md")
        for distribution in (wheel, sdist):
            _check_example(distribution, folder / f"env-{distribution.suffix[1:]}")


def _check_example(distribution: Path, environment: Path) -> None:
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, distribution], check=True)
    example = examples(README)[0]
    done = subprocess.run(
        [python, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        cwd=environment,
        check=False,
    )
    if done.returncode or done.stdout.splitlines() != expected_output(example):
        sys.exit(f"the first example fails from {distribution.name}:\n{done.stdout}{done.stderr}")
    print(f"{distribution.name}: installed alone, the first example of the README runs")


if __name__ == "__main__":
    main()

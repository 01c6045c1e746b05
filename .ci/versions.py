"""Run all tests in a new environment, with the oldest allowed packages or the newest.

python3.11 .ci/versions.py lowest     every package of pyproject.toml at its lower bound
python3.13 .ci/versions.py newest     what pip chooses today, under the Python that runs this

More arguments go to pip. On Linux the lowest PyTorch comes with CUDA from the usual index: about
3 GB, unless you add `--extra-index-url` and the address of an index with CPU builds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement  # comes with every pip

ROOT = Path(__file__).resolve().parent.parent


def lowest() -> list[str]:
    """Return a pin for each requirement: ``numpy>=1.26`` becomes ``numpy==1.26``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = []
    for line in project["dependencies"] + project["optional-dependencies"]["test"]:
        requirement = Requirement(line)
        (bound,) = [s.version for s in requirement.specifier if s.operator == ">="]
        pins.append(f"{requirement.name}=={bound}")
    return pins


def main(which: str, *pip_options: str) -> int:
    pins = {"lowest": lowest, "newest": list}[which]()
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        python = str(Path(folder) / scripts / "python")
        pip = [python, "-m", "pip", "install", "--quiet", *pip_options]
        subprocess.run([*pip, "-e", f"{ROOT}[test]", *pins], check=True)
        print(*pins, sep="\n")
        subprocess.run([python, "-m", "pip", "list"], check=True)
        return subprocess.run([python, "-m", "pytest", "-q"], cwd=ROOT).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("lowest", "newest"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

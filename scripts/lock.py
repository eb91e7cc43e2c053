"""Write requirements.lock anew from requirements-dev.txt; takes minutes and needs the network."""

import subprocess
import tempfile
import venv
from pathlib import Path

PIP_TOOLS = "pip-tools==7.6.2"
ROOT = Path(__file__).parents[1]
OPTIONS = [
    *("--quiet", "--generate-hashes", "--strip-extras", "--no-header", "--no-annotate"),
    *("--no-emit-index-url", "--no-emit-find-links"),
    *("--unsafe-package", "torch", "--unsafe-package", "visdom"),
]
HEADER = """\
# Made by `make lock` from requirements-dev.txt: every package but torch and visdom, with the
# hashes of its files. torch comes from a local wheel or an index of the user's choice, visdom is
# built in the tree (packaging/visdom).
"""


def main() -> None:
    """Resolve in an environment of its own, so that the result does not depend on ours."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python, output = f"{folder}/bin/python", Path(folder) / "lock"
        subprocess.run([python, "-m", "pip", "install", "--quiet", PIP_TOOLS], check=True)
        compile_pins = [python, "-m", "piptools", "compile", *OPTIONS, "-o", str(output)]
        subprocess.run([*compile_pins, "requirements-dev.txt"], check=True, cwd=ROOT)
        pins = output.read_text().partition("\n# WARNING")[0].rstrip() + "\n"
    (ROOT / "requirements.lock").write_text(HEADER + pins)


if __name__ == "__main__":
    main()

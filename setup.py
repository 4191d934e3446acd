"""Puts conf/ and docs/published.csv into the package of a wheel.

All else is in pyproject.toml, and MANIFEST.in puts them into the source distribution. An editable
installation finds them at the top of the repository (amodal_pipeline/shipped.py).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfiguration(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        files = [path for path in Path("conf").rglob("*.yml") if path.parts[1] != "local"]
        for path in [*files, Path("docs/published.csv")]:
            copy = Path(self.build_lib, "amodal_pipeline", path)
            self.mkpath(str(copy.parent))
            self.copy_file(str(path), str(copy))


setup(cmdclass={"build_py": BuildWithConfiguration})

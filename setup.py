"""Refuses to build a wheel; setup.cfg has all metadata.

pip runs this file: an editable install works, anything that copies the packages elsewhere stops here.
"""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

REASON = (
    "Triptych cannot be built into a wheel: its packages have plain top-level names (data, models, "
    "objectives, tasks, training, tools, studies, configs), which would collide with others in "
    "site-packages. Use the checkout, or: pip install -e ."
)


class RefusedWheel(bdist_wheel):
    """An editable install asks this command for metadata only; `run` builds."""

    def run(self):
        raise SystemExit(f"error: {REASON}")


setup(cmdclass={"bdist_wheel": RefusedWheel})

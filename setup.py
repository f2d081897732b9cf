"""Refuses to build a wheel; everything else about the project stands in setup.cfg.

Used by pip alone: an editable install passes through, anything that would copy the rooms
elsewhere stops here.
"""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

REASON = (
    "Triptych is not built into a wheel: its rooms are top-level packages with plain names "
    "(data, models, objectives, tasks, training, tools, studies, configs), which would collide "
    "with others in site-packages. Use the checkout as it is, or: pip install -e ."
)


class RefusedWheel(bdist_wheel):
    """An editable install asks this command for metadata only; `run` is what builds."""

    def run(self):
        raise SystemExit(f"error: {REASON}")


setup(cmdclass={"bdist_wheel": RefusedWheel})

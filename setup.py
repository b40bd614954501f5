"""Installs pose_nb; every fact about the project stands in settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
project = config["DEFAULT"]


def lines(key):
    return [line for line in project[key].splitlines() if line.strip()]


setup(
    name=project["name"],
    version=project["version"],
    description=project["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=project["author"],
    license=project["license"],
    keywords=project["keywords"],
    python_requires=f">={project['min_python']}",
    packages=find_packages(include=["pose_nb", "pose_nb.*"]),
    package_data={"pose_nb": ["py.typed", "tables/facts.csv"]},
    install_requires=lines("requirements"),
    extras_require={
        extra: lines(f"{extra}_requirements") for extra in ("notebooks", "site", "dev")
    },
    entry_points={"console_scripts": lines("console_scripts")},
)

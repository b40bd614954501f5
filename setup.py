"""Installs pose_nb; every fact about the project stands in settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
project = config["DEFAULT"]


def lines(key):
    return [line for line in project[key].splitlines() if line.strip()]


class BuildWithPages(build_py):
    """Copies the pages about data sets into the package, where the command line finds them."""

    def run(self):
        super().run()
        target = Path(self.build_lib) / "pose_nb" / "_recipes"
        target.mkdir(parents=True, exist_ok=True)
        for page in sorted((here / "data_recipes").glob("*/README.md")):
            (target / f"{page.parent.name}.md").write_bytes(page.read_bytes())


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
    cmdclass={"build_py": BuildWithPages},
    packages=find_packages(include=["pose_nb", "pose_nb.*"]),
    package_data={
        "pose_nb": [
            "py.typed",
            "tables/facts.csv",
            "tables/cards.txt",
            "weights/copies.csv",
            "answers.txt",
            "canvas.js",
            "labs_page.html",
            "labs_page.js",
            "canvas.css",
        ]
    },
    install_requires=lines("requirements"),
    extras_require={
        extra: lines(f"{extra}_requirements")
        for extra in ("notebooks", "site", "dev", "cofw", "export")
    },
    entry_points={"console_scripts": lines("console_scripts")},
)

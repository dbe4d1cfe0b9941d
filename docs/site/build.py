"""Builds the site: `python docs/site/build.py [FOLDER]` writes build/pages and from it build/site (or both
into FOLDER). Nothing is fetched.

Any warning (a dead link or anchor, a page that is in no part of the navigation) ends it with exit code 1.
Open site/index.html: links and search work without a server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pages import ROOT, DeadLinkError, Site


def main(folder: Path) -> int:
    try:
        Site().write(folder / "pages")
    except DeadLinkError as dead:
        print(dead, file=sys.stderr)
        return 1
    # mkdocs-material gets mends until May 2027; Zensical, its successor, reads the same mkdocs.yml.
    told = {"NO_MKDOCS_2_WARNING": "1", "REFINE_PAGES": str(folder / "pages")}
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--clean",
        "--site-dir",
        str(folder / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **told})
    if done.returncode == 0:
        print(f"The site: {folder / 'site' / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"))

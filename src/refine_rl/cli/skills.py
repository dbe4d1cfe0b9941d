"""refine skills: a page for coding agents."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from refine_rl.errors import UserError, disk_error, quoted

SKILLS = Path(__file__).parents[1] / "assets" / "skills"
_SKILL = "refine-rl"
_PAGE = "SKILL.md"


def skills(
    to: Path | None = typer.Option(
        None, "--to", metavar="DIR", help="Copy the skill into this folder, as DIR/refine-rl."
    ),
) -> None:
    """Print where the skill for coding agents is. A page that tells an agent how to use this program; --to
    puts it where yours looks for skills, such as .claude/skills or .agents/skills."""
    from refine_rl.report.screen import results, say

    if to is None:
        say(results(), str(SKILLS / _SKILL / _PAGE))
        return
    say(results(), str(copy_skill(to)))


def copy_skill(to: Path) -> Path:
    """The skill's page in the folder `to`. Raises UserError where another one has its place."""
    target = to / _SKILL
    page = target / _PAGE
    if page.is_file() and page.read_bytes() == (SKILLS / _SKILL / _PAGE).read_bytes():
        return page
    if target.exists() or target.is_symlink():
        raise UserError(
            f"{target} is there already, and is another one. Remove it first (rm -r {quoted(target)}), or "
            "name another folder."
        )
    try:
        shutil.copytree(SKILLS / _SKILL, target)
    except (OSError, shutil.Error) as error:
        if (disk := disk_error(error, target)) is not None:
            raise disk from error
        raise UserError(f"{target} cannot be made: {error}") from error
    return page

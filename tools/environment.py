"""Prepares the Python environment that the Makefile uses, and writes the path of its interpreter to build/environment.

    python3 tools/environment.py EXTRA...

The environment of the python3 that runs this is used as it is if it holds a suitable torch; otherwise `.venv` beside
the sources, with a pinned torch. Either way only what the extras of pyproject.toml lack is installed. Needs nothing but
the standard library; says nothing when there is nothing to do.
"""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / ".venv"
TORCH, OLDEST_TORCH = "torch==2.13.0", (2, 11)
BUILD_TOOLS = ["setuptools", "wheel", "ninja"]
# Bytecode is made on import, of what is imported; making all of it takes half the time of an installation.
INSTALL = ["-m", "pip", "install", "--quiet", "--no-compile"]
VERSIONS = """
import json, sys
from importlib import metadata
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


def stop(sentence):
    raise SystemExit(f"tools/environment.py: {sentence}")


def run(*command):
    if subprocess.call([str(part) for part in command], stdout=sys.stderr) != 0:
        stop(f"this command failed: {' '.join(map(str, command))}")


def extras(names):
    """The requirements of these extras; read without tomllib, which Python 3.10 lacks."""
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    table = {name: ast.literal_eval(items) for name, items in re.findall(r"^(\w+) = (\[.*?\])$", section, re.M | re.S)}
    return list(dict.fromkeys(item for name in names for item in table[name]))


def installed(python, names):
    """{name: version} of those distributions that the interpreter has."""
    return json.loads(subprocess.check_output([python, "-c", VERSIONS, *names], text=True))


def has_torch(python):
    version = installed(python, ["torch"]).get("torch")
    return version is not None and tuple(map(int, re.findall(r"\d+", version)[:2])) >= OLDEST_TORCH


def make_venv(*options):
    interpreter = LOCAL / "bin" / "python"
    if not interpreter.exists():
        print(f"Creating {LOCAL.name} with {sys.executable}", file=sys.stderr)
        if subprocess.call([sys.executable, "-m", "venv", *options, str(LOCAL)], stdout=sys.stderr) != 0:
            stop("`python3 -m venv` failed: install the venv module of this Python (Debian: apt install python3-venv).")
    return str(interpreter)


def choose():
    """The interpreter to use, with a suitable torch in it."""
    if has_torch(sys.executable):
        return sys.executable
    python = make_venv()
    if not has_torch(python):
        # Before everything else, so that nothing else chooses another torch.
        run(python, *INSTALL, TORCH)
    return python


def managed_by_the_system(python):
    """True where pip refuses to install (PEP 668): not a virtual environment, and marked so."""
    outside = python == sys.executable and sys.prefix == sys.base_prefix
    return outside and os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))


def missing(python, requirements):
    """The requirements not met; only an exact pin asks for a version."""
    parts = {item: re.sub(r"\[.*\]", "", item).split("==") for item in requirements}
    found = installed(python, [part[0] for part in parts.values()])
    return [
        item
        for item, (name, *pin) in parts.items()
        if name not in found or (pin and found[name].split("+")[0] != pin[0])
    ]


def main(names):
    if sys.version_info < (3, 10):  # noqa: UP036 (whoever lacks it should read why)
        stop(
            f"Python 3.10 or newer is needed and this is {sys.version.split()[0]}: make PYTHON=python3.12, for example."
        )
    python = choose()
    wanted = BUILD_TOOLS + extras(names)
    lacking = missing(python, wanted)
    if lacking and managed_by_the_system(python):
        python = make_venv("--system-site-packages")  # sees the torch that is there
        lacking = missing(python, wanted)
    if lacking:
        print(f"Installing {', '.join(lacking)}", file=sys.stderr)
        if subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            run(python, "-m", "ensurepip", "--upgrade")
        run(python, *INSTALL, *lacking)
    record = ROOT / "build" / "environment"
    record.parent.mkdir(exist_ok=True)
    if not record.exists() or record.read_text() != python:  # its date tells make when to build anew
        record.write_text(python)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Build the wheel, check what is in it, install it into a fresh environment and use it there.

    python scripts/check_wheel.py [--wheel WHEEL] [--tag v1.2.3]

Needs pip, git and PyPI.  The commands run in a folder that holds other packages named like ours.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("builder/", "letterset/", "schemas/")
SMALL = ("--img-shape", "64", "96", "--quiet")
FROM_PYTHON = """
import warnings
warnings.simplefilter("ignore")  # of what it hides, beside us
from letterset import BuildConfig, build, open_dataset

build(BuildConfig.model_validate({
    "img_shape": [64, 96],
    "source": {"path": "demo/videos", "include": ["carphone*"]},
    "store": {"path": "second"},
    "executor": {"kind": "processes", "workers": 2},
}))
print(open_dataset("second"))
"""


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """Run a command that finds only what is installed; returns what it printed."""
    words = [str(word) for word in argv]
    shown = shlex.join(word if len(word) < 80 else "..." for word in words)
    print(f"$ {shown}", flush=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shown}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def tracked() -> list[str]:
    """Return the files of the checkout that git knows or would add."""
    listed = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard")
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def build_wheel(scratch: Path) -> Path:
    """Build from a copy: setuptools would put what it left in build/ earlier into the wheel."""
    for name in tracked():
        copy = scratch / "checkout" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", scratch)
    run(*pip, scratch / "checkout")
    return next(scratch.glob("*.whl"))


def check_contents(wheel: Path) -> None:
    """Raise SystemExit unless the wheel holds all files of our packages and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = {name for name in names if ".dist-info/" in name}
        base = next(name for name in info if name.endswith("/METADATA")).rpartition("/")[0]
        metadata = Parser().parsestr(archive.read(f"{base}/METADATA").decode())
        commands = archive.read(f"{base}/entry_points.txt").decode()
    ours = {name for name in tracked() if name.startswith(PACKAGES)}
    if wrong := sorted(ours ^ (names - info)):
        raise SystemExit(f"{wheel.name}: missing, or there by mistake: {', '.join(wrong)}")
    expected = {
        "its command": "letterset = letterset.__main__:main" in commands,
        "its licence": f"{base}/licenses/LICENSE" in info,
        "its README": metadata["Description-Content-Type"] == "text/markdown",
        "its version": f"-{metadata['Version']}-" in wheel.name,
        "its extras": {"build", "torch", "zarr"} <= {*metadata.get_all("Provides-Extra", [])},
    }
    if lacking := [what for what, there in expected.items() if not there]:
        raise SystemExit(f"{wheel.name} lacks {', '.join(lacking)}")
    print(f"{wheel.name}: {len(names)} files, all ours and no other")


def check_versions(wheel: Path, tag: str) -> None:
    """Raise SystemExit unless a tag, the wheel, the changelog and the citation say one version."""
    number = tag.removeprefix("v")
    said = {
        wheel.name: f"-{number}-" in wheel.name,
        "CHANGELOG.md": f"\n## [{number}]" in (ROOT / "CHANGELOG.md").read_text("utf-8"),
        "CITATION.cff": f"\nversion: {number}\n" in (ROOT / "CITATION.cff").read_text("utf-8"),
    }
    if other := [name for name, agrees in said.items() if not agrees]:
        raise SystemExit(f"the tag is {tag}, but not in {', '.join(other)}")


def use(wheel: Path, scratch: Path) -> None:
    """Install into a fresh environment, without constraints, and run the demo there."""
    venv.create(scratch / "fresh", with_pip=True)
    bin_folder = scratch / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    python, letterset = bin_folder / "python", bin_folder / "letterset"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[build]")
    empty = scratch / "empty"
    for name in ("schemas", "builder"):
        (empty / name).mkdir(parents=True)
        (empty / name / "__init__.py").write_text("MINE = True\n", encoding="utf-8")
    print(run(letterset, "--version", cwd=empty), end="")
    print(run(python, ROOT / "scripts" / "demo.py", cwd=empty), end="")
    run(letterset, "build", "--source", "demo/videos/carphone_pristine.mp4", "--out", "first",
        *SMALL, cwd=empty)  # fmt: skip
    run(letterset, "validate", "first", cwd=empty)
    print(run(python, "-c", FROM_PYTHON, cwd=empty), end="")


def main() -> None:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--wheel", type=Path, help="check this one, made of this checkout")
    parser.add_argument("--tag", help="of a release: every file has to say this version")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        wheel = args.wheel.resolve() if args.wheel else build_wheel(scratch)
        check_contents(wheel)
        if args.tag:
            check_versions(wheel, args.tag)
        use(wheel, scratch)


if __name__ == "__main__":
    main()

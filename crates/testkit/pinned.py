"""Pinned programs and libraries of tests, which pip brings."""

import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys


def installed(requirements):
    """The folder with what the file `requirements` names, without dependencies. It is in the user's cache; the first time
    pip fills it, which takes the network and some seconds."""
    requirements = pathlib.Path(requirements)
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / "stampede" / f"pinned-{wanted[:16]}"
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            print(f"installing {requirements} into {folder}", file=sys.stderr)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--root-user-action=ignore"]
            command += ["--only-binary=:all:", "--upgrade", "--target", str(folder), "-r", str(requirements)]
            if subprocess.run(command, stdout=sys.stderr).returncode != 0:
                sys.exit(
                    f"pip could not install {requirements}. The first run needs the network, and Debian's package"
                    " python3-pip."
                )
            (folder / "complete").touch()
    return folder


def main():
    """`pinned.py REQUIREMENTS ARGUMENTS …` runs Python with these arguments and with what REQUIREMENTS names."""
    requirements, *arguments = sys.argv[1:]
    folder = installed(requirements)
    os.environ["PYTHONPATH"] = str(folder)
    os.environ["PATH"] = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)])
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()

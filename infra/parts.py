"""``python -m infra.parts``: have what the tests run against, as far as this machine allows.

Real servers and a real browser come from Debian's packages, where we may install any. Without
them the tests that need them are skipped, visibly and with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

#: Program → (Debian packages that bring it, what is tested with it).
PARTS: dict[str, tuple[tuple[str, ...], str]] = {
    "java": (("default-jre-headless",), "the log on Apache Kafka"),
    "mvn": (("maven",), "the log on Apache Kafka"),
    "redis-server": (("redis-server",), "snapshots on Redis"),
    "promtool": (("prometheus",), "alert rules"),
    "chromium": (("chromium",), "the page"),
    "chromedriver": (("chromium-driver",), "the page"),
}
INSTALL_S = 900


def main() -> int:
    """Install what is missing, or say what will be skipped; never fails the tests by itself."""
    missing = [name for name in PARTS if shutil.which(name) is None]
    if not missing:
        return 0
    packages = sorted({package for name in missing for package in PARTS[name][0]})
    why_not = _install(packages)
    for name in [name for name in missing if shutil.which(name) is None]:
        print(f"without {name}, tests of {PARTS[name][1]} are skipped or run on a stand-in: "
              f"{why_not or 'the package brought no such program'}")  # fmt: skip
    return 0


def _install(packages: list[str]) -> str:
    """Install Debian packages; an empty text, or why they could not be."""
    apt = shutil.which("apt-get")
    if apt is None:
        return "this is no Debian; install it by your own package manager"
    # Started as root, or by a user who may become it without being asked.
    become = [] if os.geteuid() == 0 else [shutil.which("sudo") or "", "-n"]
    if become and (
        not become[0]
        or subprocess.run([*become, "true"], capture_output=True, check=False).returncode
    ):
        return f"only root may install it: apt-get install {' '.join(packages)}"
    # A package's server is not to be started: the tests start their own.
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    print(f"installing for the tests: {' '.join(packages)} ...", flush=True)
    for command in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(
                [*become, apt, "-y", *command],
                env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=INSTALL_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"apt-get {command[0]} took longer than {INSTALL_S} s"
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            return f"apt-get {command[0]} failed: {said[-1] if said else done.returncode}"
    return ""


if __name__ == "__main__":
    sys.exit(main())

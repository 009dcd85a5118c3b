"""A headless Chromium driven over chromedriver's plain WebDriver protocol, with httpx.

Only what the page's tests need: open, find by script, type keys, wait, read the console.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

#: How long anything on the page may take, in seconds.
PATIENCE_S = 20.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
#: Keys by WebDriver's code points.
ENTER, ESCAPE, DOWN, UP, TAB = "\ue007", "\ue00c", "\ue015", "\ue013", "\ue004"
RIGHT = "\ue014"
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1280,900",
)  # fmt: skip


def absent() -> str:
    """Why no browser can be driven here; empty if one can."""
    missing = [name for name in ("chromedriver", "chromium") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Browser:
    """One window."""

    def __init__(self, http: httpx.Client, session: str) -> None:
        self._http = http
        self._session = session

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        answer = self._http.request(
            method, f"/session/{self._session}{path}", json=body if method == "POST" else None
        )
        value = answer.json()["value"]
        if answer.is_error:
            raise RuntimeError(f"{path}: {value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        """Go to an address; one that differs by its hash alone only changes the hash."""
        self._ask("POST", "/url", url=url)

    def reload(self) -> None:
        """Load the page again."""
        self._ask("POST", "/refresh")

    @property
    def url(self) -> str:
        """The address now."""
        return str(self._ask("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body returns on the page."""
        return self._ask("POST", "/execute/sync", script=script, args=list(arguments))

    def text(self, selector: str) -> str:
        """The text of the first element, as it is shown; empty if there is none."""
        return str(
            self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        )

    def type(self, selector: str, keys: str) -> None:
        """Type into an element, by real key events."""
        element = self._ask("POST", "/element", using="css selector", value=selector)[ELEMENT]
        self._ask("POST", f"/element/{element}/value", text=keys)

    def press(self, keys: str) -> None:
        """Press keys one by one, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one point of the window, move to another, let go."""
        steps: list[dict[str, Any]] = [
            {"type": "pointerMove", "duration": 50 * (i > 0), "x": round(x), "y": round(y)}
            for i, (x, y) in enumerate((start, end))
        ]
        steps.insert(1, {"type": "pointerDown", "button": 0})
        steps.append({"type": "pointerUp", "button": 0})
        self._ask(
            "POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": steps}]
        )

    def wait(self, script: str, *arguments: Any, patience_s: float = PATIENCE_S) -> Any:
        """What an expression is on the page, once it is truthy.

        Raises
        ------
        TimeoutError
            With the expression and what the page shows instead.
        """
        end = time.monotonic() + patience_s
        while not (value := self.run(f"return {script}", *arguments)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}\nthe page: {self.text('body')[:2000]}")
            time.sleep(0.05)
        return value

    def emulate(self, command: str, **parameters: Any) -> None:
        """Send a command of the DevTools protocol, such as one that makes the screen small."""
        self._ask("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        entries = self._ask("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self) -> str:
        """What is seen, as PNG in base64."""
        return str(self._ask("GET", "/screenshot"))


def _port(log: Path, driver: subprocess.Popen[bytes]) -> int:
    """The free port that chromedriver chose, out of what it says at its start."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and driver.poll() is None:
        for line in log.read_text(errors="replace").splitlines():
            if "started successfully on port " in line:
                return int(line.rsplit(" ", 1)[1].rstrip("."))
        time.sleep(0.05)
    raise RuntimeError(f"chromedriver did not start: {log.read_text(errors='replace')}")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser of its own profile; nothing of it is left behind."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "driver.log"
        with log.open("wb") as out:
            driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=out, stderr=out)
        try:
            base = f"http://127.0.0.1:{_port(log, driver)}"
            with httpx.Client(base_url=base, timeout=60, trust_env=False) as http:
                options = [*_OPTIONS, f"--user-data-dir={folder}/profile"]
                wanted = {
                    "goog:chromeOptions": {"args": options, "binary": shutil.which("chromium")},
                    "goog:loggingPrefs": {"browser": "ALL"},
                }
                answer = http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
                value = answer.json()["value"]
                if answer.is_error:
                    raise RuntimeError(f"no session: {value['message']}")
                try:
                    yield Browser(http, value["sessionId"])
                finally:
                    http.delete(f"/session/{value['sessionId']}")
        finally:
            driver.terminate()
            try:
                driver.wait(10)
            except subprocess.TimeoutExpired:
                driver.kill()
                driver.wait()

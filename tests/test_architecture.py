"""What the source may import, do on import, and how long its modules may grow."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Lower layers know nothing of higher ones; `infra` is beside them, for scripts and tests.
LAYERS = ("stream", "learner", "api", "scripts")
MAY_IMPORT = {
    **{name: set(LAYERS[: at + 1]) for at, name in enumerate(LAYERS)},
    "infra": {"infra", "learner", "stream"},
}
MAY_IMPORT["scripts"].add("infra")

PURE = {
    "stream": ("event", "window", "buckets", "brought", "gaps", "alive", "identities"),
    "learner": (
        "panel", "plans", "features", "regression", "models", "imported", "ensemble",
        "intervals", "spread", "judging", "evaluation", "accuracy", "shard", "operations",
        "snapshot", "parts", "replay", "manifest", "served", "recall", "digest", "pickles",
        "serving", "pointers", "forecaster", "products", "profiles", "usual", "open_bucket",
        "totals", "lead_time", "groups", "wholes", "twin", "losses", "gates", "difference",
        "guard", "inputs", "findings", "watch", "returns", "names", "standstill",
        "availability", "retention", "amending",
    ),
}  # fmt: skip
#: What a pure module has no use for: I/O, clocks, randomness, threads.
IMPURE = {
    "os", "io", "time", "socket", "pathlib", "random", "secrets", "uuid", "subprocess", "shutil",
    "tempfile", "threading", "multiprocessing", "asyncio", "sqlite3", "kafka", "redis", "httpx",
    "requests", "urllib", "http", "logging",
}  # fmt: skip
#: A pickle is read from bytes in memory through `io.BytesIO`, and nothing else of `io`.
EXCEPTED = {("learner/pickles.py", "io"): {"BytesIO"}}
#: Attributes that read a clock, draw numbers or touch files, whatever they are called on.
FORBIDDEN_CALLS = {
    "now", "utcnow", "today", "fromfile", "tofile", "loadtxt", "savetxt", "memmap",
    "default_rng", "read_csv", "read_parquet", "urandom",
}  # fmt: skip

LONGEST = 450
#: Longer ones, each with the length it may have, and why it is not two modules.
LONGER = {
    "stream/sqlite_log.py": (635, "one adapter: file, appenders, consumer share one lock order"),
    "stream/kafka_log.py": (470, "one adapter: producer, consumer and topic checks"),
    "stream/window.py": (565, "one state machine; calls are spared on the way of a sale"),
    "learner/shard.py": (660, "one fold: a close's steps, and what an operation does to them"),
    "learner/worker.py": (535, "one loop: what may happen between two polls, in its order"),
}


def sources() -> list[Path]:
    return sorted(
        path.relative_to(ROOT) for top in (*LAYERS, "infra") for path in (ROOT / top).rglob("*.py")
    )


def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in a file, functions and type checking included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def forbidden(path: Path, tree: ast.Module) -> list[str]:
    """What a pure module imports or calls though it should not."""
    excepted = {module for file, module in EXCEPTED if file == path.as_posix()}
    found = [
        f"imports {name}"
        for name in imported(tree)
        if (top := name.partition(".")[0]) in IMPURE and top not in excepted
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            allowed = EXCEPTED.get((path.as_posix(), node.value.id))
            if allowed is not None and node.attr not in allowed:
                found.append(f"uses {node.value.id}.{node.attr}")
        if isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "attr", getattr(called, "id", ""))
            if name in FORBIDDEN_CALLS or (name == "open" and isinstance(called, ast.Name)):
                found.append(f"calls {name}()")
        if isinstance(node, ast.Attribute) and node.attr == "random":
            found.append("draws random numbers")
    return found


def test_imports_point_one_way() -> None:
    ours = {*LAYERS, "infra", "tests"}
    wrong = [
        f"{path} imports {name}"
        for path in sources()
        for name in imported(tree_of(path))
        if (top := name.partition(".")[0]) in ours and top not in MAY_IMPORT[path.parts[0]]
    ]
    assert wrong == []


def pure_modules() -> list[Path]:
    return [Path(top, f"{name}.py") for top, names in PURE.items() for name in names]


@pytest.mark.parametrize("path", pure_modules(), ids=str)
def test_a_pure_module_does_no_io_and_reads_no_clock(path: Path) -> None:
    assert forbidden(path, tree_of(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import os.path",
        "def f():\n    from time import monotonic",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\ndatetime.utcnow()",
        "import numpy as np\nnp.random.rand(3)",
        "open('x')",
        "import io\nio.BytesIO()",
    ],
)
def test_what_is_impure_is_found(text: str) -> None:
    assert forbidden(Path("learner/panel.py"), ast.parse(text)) != []


def test_a_pickles_bytes_in_memory_are_the_only_exception() -> None:
    path = Path("learner/pickles.py")
    assert forbidden(path, ast.parse("import io\nio.BytesIO()")) == []
    assert forbidden(path, ast.parse("import io\nio.open('x')")) != []


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {path.stem for path in sources()}
    assert names.isdisjoint({"utils", "util", "helpers", "common", "misc"})


def test_no_module_grows_past_what_can_be_read_at_once() -> None:
    lengths = {
        path.as_posix(): len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for path in sources()
    }
    too_long = {
        name: length
        for name, length in lengths.items()
        if length > LONGER.get(name, (LONGEST, ""))[0]
    }
    assert too_long == {}
    assert [name for name in LONGER if lengths.get(name, 0) <= LONGEST] == [], "no longer needed"


# -- what happens on import ------------------------------------------------------------------

#: Other people's packages are loaded first: what they do on import is not ours to forbid. Each
#: module of ours is then the first one imported, in a process of its own.
IMPORT_ALL = """
import gc, importlib, os, socket, sys, threading, traceback
from ast import literal_eval

others, ours = literal_eval(sys.stdin.read())
for name in others:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # an optional one: who needs it fails below
assert not any(name.partition(".")[0] in {"stream", "learner", "api", "scripts", "infra"}
               for name in sys.modules), "others import ours"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
seen, running = [], threading.active_count()

def hook(event, args):
    if event == "open" and args[2] is not None and args[2] & WRITING:
        seen.append(f"opens {args[0]} for writing")
    elif event in ("os.mkdir", "os.remove", "os.rename", "sqlite3.connect", "subprocess.Popen",
                   "os.fork", "os.posix_spawn", "_thread.start_new_thread", "signal.signal"):
        seen.append(event)
    elif event.startswith("socket.") and event != "socket.gethostname":
        seen.append(event)

gc.freeze()  # not to be copied into each of the processes
start = threading.Thread.start
def started(self):
    seen.append("starts a thread")
    start(self)
threading.Thread.start = started

failed, children = False, 0
for name in ours:
    sys.stdout.flush()
    if children == os.cpu_count():
        failed |= os.wait()[1] != 0
        children -= 1
    if os.fork():
        children += 1
        continue
    sys.addaudithook(hook)
    try:
        importlib.import_module(name)
    except BaseException:
        seen.append("cannot be imported first:\\n" + traceback.format_exc())
    if threading.active_count() != running:
        seen.append("leaves a thread running")
    for what in seen:
        print(f"{name}: {what}", flush=True)
    os._exit(bool(seen))
while children:
    failed |= os.wait()[1] != 0
    children -= 1
sys.exit(failed)
"""


def packages_of_others() -> list[str]:
    tops = {*LAYERS, "infra", "__future__"}
    trees = [tree_of(path) for path in sources()]
    names = {name for tree in trees for name in imported(tree)}
    # What is imported from a package may be a module of it, as `linear_model` is of River.
    names |= {
        f"{node.module}.{alias.name}"
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return sorted(name for name in names if name.partition(".")[0] not in tops)


def imported_in_a_fresh_process(
    others: list[str], ours: list[str], folder: Path
) -> tuple[int, str]:
    """Import modules, each as the first of ours, and tell what they did besides."""
    done = subprocess.run(
        [sys.executable, "-B", "-W", "ignore", "-c", IMPORT_ALL],
        input=repr((others, ours)),
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
            "OPENBLAS_NUM_THREADS": "1",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done.returncode, done.stdout + done.stderr


def test_every_module_can_be_imported_first_and_does_nothing_then(tmp_path: Path) -> None:
    ours = [module_of(path) for path in sources() if path.stem != "__main__"]
    assert imported_in_a_fresh_process(packages_of_others(), ours, tmp_path) == (0, "")


@pytest.mark.parametrize(
    "text, said",
    [
        ("open('made.txt', 'w')", "for writing"),
        ("import threading\nthreading.Thread(target=print).start()", "starts a thread"),
        ("import socket\nsocket.socket()", "socket.__new__"),
        ("import learner.no_such_module", "cannot be imported first"),
    ],
)
def test_what_a_module_does_on_import_is_seen(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "eager.py").write_text(text, encoding="utf-8")
    status, told = imported_in_a_fresh_process([], ["eager"], tmp_path)
    assert status != 0
    assert said in told


@pytest.mark.parametrize("command", ["import api.server", "from scripts.cli import make; make()"])
def test_who_does_not_learn_loads_no_river(command: str) -> None:
    """A replica, and the help, start in a third of the time: models are loaded with the first."""
    done = subprocess.run(
        [sys.executable, "-c", f"{command}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {"river.linear_model", "learner.models"} & set(done.stdout.split()) == set()
    assert "stream.settings" in done.stdout

"""``python -m scripts.docs``: what of the documentation is made from the code.

The page of settings, the events' JSON Schema, and the AsyncAPI document of the topics. A test
holds the files against this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from stream.event import REASONS, RESERVED, AnyEvent
from stream.settings import Settings, describe

ROOT = Path(__file__).parent.parent
SETTINGS = """# Settings

Made by `make docs` from `stream/settings.py`. A value comes from a TOML file (`--config`, or
`$SALESCAST_CONFIG`), then from the environment (`SALESCAST_<NAME>` in capitals), then from the
command line; the last one wins. `salescast settings` shows each value and where it came from. An
unknown name is refused, with the nearest one that there is.

**State** marks the settings that decide what is learned. They are part of every snapshot: a
process with other values refuses to load it and names the difference. All processes of a deployment
must have the same ones. Another value needs [`salescast reshard`](deployment.md#resharding), which
learns the whole log anew. The others may differ from process to process, and change at a restart.

"""


def settings_page() -> str:
    """All settings as a Markdown page."""
    rows = ["| setting | default | state | what it does |", "|---|---|---|---|"]
    for row in describe():
        unit = f" ({row['unit']})" if row["unit"] else ""
        default = f"`{row['default']}`" if row["default"] else ""
        state = "state" if row["state"] else ""
        rows.append(f"| `{row['name']}` | {default} | {state} | {row['help']}{unit} |")
    return SETTINGS + "\n".join(rows) + "\n"


def event_schema() -> dict[str, Any]:
    """JSON Schema of one event, of the types that producers send."""
    own = {kind.__name__ for kind in RESERVED}
    _, parts = msgspec.json.schema_components([AnyEvent], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Salescast event",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in sorted(parts) if name not in own],
        "$defs": {name: parts[name] for name in sorted(parts) if name not in own},
    }


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3 document of the topics."""
    prefix = Settings().topic_prefix
    reasons = ", ".join(f"`{name}`" for name in REASONS)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Salescast topics",
            "version": "1",
            "description": "The topics of a Salescast deployment on Kafka.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": f"{prefix}.events",
                "description": "Keyed by the store (murmur2, Kafka's default partitioner). A "
                "value is one event, or a JSON array of events of stores of the same partition.",
                "messages": {"event": {"$ref": "#/components/messages/event"}},
            },
            "dead_letters": {
                "address": f"{prefix}.dead_letters",
                "description": "Items that were not folded: their original bytes. Headers are "
                f"Kafka Connect's, and `salescast.reason`, one of {reasons}.",
                "messages": {"item": {"payload": {}}},
            },
        },
        "operations": {
            "produce": {"action": "receive", "channel": {"$ref": "#/channels/events"}},
            "inspect": {"action": "send", "channel": {"$ref": "#/channels/dead_letters"}},
        },
        "components": {"messages": {"event": {"payload": {"$ref": "event.schema.json"}}}},
    }


def made() -> dict[str, str]:
    """Every file that is made, by its path from the root."""
    return {
        "docs/settings.md": settings_page(),
        "docs/schemas/event.schema.json": _text(event_schema()),
        "docs/schemas/asyncapi.json": _text(asyncapi()),
    }


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write what differs."""
    for name, text in made().items():
        file = ROOT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

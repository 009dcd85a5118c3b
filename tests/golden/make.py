"""Make the golden snapshots anew: `python -m tests.golden.make`, when the format has changed.

A snapshot of a small shard, as a release keeps it, in one zip file with the public key it is signed
by and what it says: `store/`, `verify.pem`, `said.json`. The private key is thrown away.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from learner.file_store import FileStore
from learner.keys import load_signer, make_keys
from learner.manifest import FORMAT, versions
from learner.parts import cut
from learner.shard import Shard
from learner.snapshot import describe, lay_down
from learner.store import Pointer
from stream.settings import Settings
from tests.learner_parts import Told, chosen, complete, market, plan, sale, stock_outs, void

HERE = Path(__file__).parent
#: What River gives a challenger of its own is in it too.
SETTINGS = chosen(
    challengers=("seasonal_naive", "river_plain", "river.linear_model.LinearRegression")
)


def story(settings: Settings = SETTINGS) -> Shard:
    """A shard that was told a bit of everything over six weeks."""
    told = Told(Shard(settings, 0))
    told.tell(plan("offer", 20, 24, said=3, product="p1", promotion=1.0, price=1.5))
    told.tell(*market(30), stock_outs(12, 14), complete(30))
    told.tell(*market(12, first=30), sale(41, -1, id="return", product="p0"))
    told.tell(void(market(1, first=41)[0]), sale(38, 2, id="late"), sale(1, 2, id="too late"))
    return told.shard


def make(file: Path) -> None:
    """Write a snapshot of the story, its key and what it says to a zip file."""
    with tempfile.TemporaryDirectory() as kept:
        folder, private = Path(kept) / "golden", Path(kept) / "signing.pem"
        folder.mkdir()
        make_keys(private, folder / "verify.pem")
        signer = load_signer(
            Settings(signing_key_file=str(private), verify_key_file=str(folder / "verify.pem"))
        )
        shard, store = story(), FileStore(folder / "store")
        tables, chunks = cut(lay_down(shard))
        manifest = describe(shard, tables, topic_id="golden", lineage=1, parent=None, created_us=0)
        for digest, data in chunks.items():
            store.put_chunk(digest, data)
        store.put_manifest(0, manifest.snapshot, signer.seal(manifest))
        store.move_head(0, None, Pointer(manifest.snapshot, 1, manifest.position))
        store.close()
        said = {
            "snapshot": manifest.snapshot, "versions": versions(), "digest": shard.digest(),
            "counts": shard.counts(), "keys": shard.panel.keys, "mean": shard.forecast().tolist(),
        }  # fmt: skip
        (folder / "said.json").write_text(json.dumps(said, indent=1))
        shutil.make_archive(str(file.with_suffix("")), "zip", folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / f"format-{FORMAT}.zip")

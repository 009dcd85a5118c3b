"""``python -m infra.kafka [BROKERS]``: run Apache Kafka until interrupted."""

from __future__ import annotations

import signal
import sys

from infra.kafka.cluster import Cluster, KafkaMissingError


def main() -> int:
    """Start brokers, say where they are, and stop them on SIGINT or SIGTERM."""
    if len(sys.argv) > 2 or not all(word.isdigit() and int(word) for word in sys.argv[1:]):
        print("usage: python -m infra.kafka [BROKERS]", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with Cluster() as cluster:
            bootstrap = cluster.start(int(sys.argv[1]) if len(sys.argv) == 2 else 1)
            print(f"SALESCAST_KAFKA_BOOTSTRAP={bootstrap}", flush=True)
            signal.pause()
    except (KafkaMissingError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Apache Kafka on this machine without Docker, for tests and demonstrations."""

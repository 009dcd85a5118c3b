"""Grafana's dashboard, data source and providers."""

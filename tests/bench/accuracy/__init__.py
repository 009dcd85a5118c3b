"""How good the forecasts are: panels of series, replayed through the shard, and scored."""

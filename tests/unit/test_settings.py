"""Settings: what is unknown or ill-typed is refused with help; the last source wins."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stream.errors import SettingsError
from stream.settings import Settings, day_start_minutes, describe, load, shown


def by_name(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in rows}


def test_defaults_load_without_file_or_environment() -> None:
    loaded = load({})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == {f.name for f in dataclasses.fields(Settings)}


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "salescast.toml"
    path.write_text('bucket = "week"\npartitions = 2\ngrace_s = 1\n')
    loaded = load(
        {"SALESCAST_PARTITIONS": "3", "SALESCAST_GRACE_S": "2", "PATH": "/bin"},
        config=str(path),
        overrides={"grace_s": 5, "bucket": None},
    )
    found = loaded.settings
    assert (found.bucket, found.partitions, found.grace_s) == ("week", 3, 5)
    assert loaded.origins["bucket"] == str(path)
    assert loaded.origins["partitions"] == "$SALESCAST_PARTITIONS"
    assert loaded.origins["grace_s"] == "command line"
    assert loaded.origins["port"] == "default"


def test_the_file_may_be_named_by_the_environment_and_is_outdone_by_the_argument(
    tmp_path: Path,
) -> None:
    named, given = tmp_path / "named.toml", tmp_path / "given.toml"
    named.write_text("port = 1001\n")
    given.write_text("port = 1002\n")
    environ = {"SALESCAST_CONFIG": str(named)}
    assert load(environ).settings.port == 1001
    assert load(environ, config=str(given)).settings.port == 1002


@pytest.mark.parametrize("where", ["file", "environment", "command line"])
def test_an_unknown_setting_is_refused_with_the_nearest_name(where: str, tmp_path: Path) -> None:
    path = tmp_path / "salescast.toml"
    path.write_text("grace = 5\n" if where == "file" else "")
    environ = {"SALESCAST_GRACE": "5"} if where == "environment" else {}
    overrides = {"grace": 5} if where == "command line" else {}
    with pytest.raises(SettingsError, match=r"unknown setting `grace` .*Did you mean `grace_s`"):
        load(environ, config=str(path), overrides=overrides)


def test_an_unknown_setting_near_nothing_points_to_the_list() -> None:
    with pytest.raises(SettingsError, match="salescast settings"):
        load({"SALESCAST_ZZZZQQQ": "1"})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("partitions", "many", "a whole number"),
        ("partitions", 1.5, "a whole number"),
        ("partitions", True, "a whole number"),
        ("tick_idle_s", "soon", "a number"),
        ("tick_idle_s", False, "a number"),
        ("bucket", "month", "one of hour, day, week"),
        ("week_start", 1, "one of monday"),
        ("host", 5, "a text"),
        ("challengers", [1, 2], "a list of names"),
        ("challengers", 3, "a list of names"),
    ],
)
def test_an_ill_typed_setting_is_refused_with_what_it_must_be(
    name: str, value: Any, wanted: str
) -> None:
    with pytest.raises(SettingsError, match=f"setting `{name}` .* must be {wanted}"):
        load({}, overrides={name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partitions", 0),
        ("grace_s", -1),
        ("revise_buckets", -1),
        ("revise_buckets", 29),
        ("max_series", 0),
        ("snapshots_kept", 1),
        ("snapshots_kept_days", -1),
        ("tick_idle_s", float("nan")),
        ("horizon", 281),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"setting `{name}` must be at"):
        load({}, overrides={name: value})


def test_bounds_of_revisions_follow_the_bucket() -> None:
    assert load({}, overrides={"bucket": "hour", "revise_buckets": 168}).settings.revise_buckets
    with pytest.raises(SettingsError, match="at most 4 with buckets of a week"):
        load({}, overrides={"bucket": "week", "revise_buckets": 5})


def test_texts_of_the_environment_become_the_settings_types() -> None:
    found = load(
        {
            "SALESCAST_PARTITIONS": "8",
            "SALESCAST_TICK_IDLE_S": "2.5",
            "SALESCAST_CHALLENGERS": " seasonal_naive, river_plain ,",
            "SALESCAST_BUCKET": "hour",
        }
    ).settings
    assert (found.partitions, found.tick_idle_s, found.bucket) == (8, 2.5, "hour")
    assert found.challengers == ("seasonal_naive", "river_plain")


def test_a_model_cannot_be_champion_and_challenger() -> None:
    with pytest.raises(SettingsError, match="`river_plain` cannot be champion and challenger"):
        load({}, overrides={"champion": "river_plain"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"covariates": ("rain", "rain")}, "names `rain` twice"),
        ({"covariates": ("rain", "rain:own")}, "`rain:own` holds a colon.*Name it `rain_own`"),
        (
            {"covariates": ("holiday",), "holidays": "DE"},
            "`holiday` is what the setting `holidays`",
        ),
    ],
)
def test_covariates_that_would_share_a_column_are_refused(
    values: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        load({}, overrides=values)


def test_without_a_country_a_holiday_may_be_a_covariate_of_its_own() -> None:
    assert load({}, overrides={"covariates": ("holiday",)}).settings.covariates


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*none\.toml"):
        load({}, config=str(missing))
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"port = = 3")
    with pytest.raises(SettingsError, match=r"broken\.toml is not valid TOML"):
        load({}, config=str(broken))
    broken.write_bytes(b'host = "\xff"')
    with pytest.raises(SettingsError, match=r"broken\.toml is not valid TOML"):
        load({}, config=str(broken))


def test_secrets_are_masked_and_unset_ones_are_shown_as_unset() -> None:
    secrets = {
        "api_key": "k-7261", "kafka_password": "p-9182", "grafana_token": "t-5523",
        "redis_url": "redis://:r-4410@cache:6379/0",
    }  # fmt: skip
    rows = by_name(shown(load({}, overrides=secrets)))
    for name, secret in secrets.items():
        assert rows[name]["value"] == "********"
        assert all(secret not in text for row in rows.values() for text in row.values())
    assert by_name(shown(load({})))["api_key"]["value"] == ""


def test_an_ill_typed_secret_is_not_repeated_in_the_error() -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, overrides={"api_key": 72617261})
    assert "72617261" not in str(caught.value)
    assert "api_key" in str(caught.value)


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Adelaide", "Asia/Kolkata", "UTC"])
def test_iana_zones_are_accepted(zone: str) -> None:
    assert load({}, overrides={"timezone": zone}).settings.timezone == zone


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("America/New_Yrok", "Did you mean `America/New_York`"),
        ("", "Use an IANA name"),
        ("../zone", "time zone"),
        ("America", "time zone"),
    ],
)
def test_an_unknown_zone_is_refused_with_a_hint(zone: str, hint: str) -> None:
    with pytest.raises(SettingsError, match="unknown time zone") as caught:
        load({}, overrides={"timezone": zone})
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "minutes"), [("00:00", 0), ("04:00", 240), ("23:45", 1425), ("05:30", 330)]
)
def test_day_start_is_read_in_minutes(text: str, minutes: int) -> None:
    assert day_start_minutes(Settings(day_start=text)) == minutes


@pytest.mark.parametrize("text", ["", "4", "24:00", "04:60", "04:10", "-1:00", "4am", "²:00"])
def test_a_day_start_that_is_no_quarter_of_an_hour_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="`day_start` must be HH:MM"):
        load({}, overrides={"day_start": text})


def test_every_setting_says_what_it_is_for() -> None:
    rows = by_name(describe())
    assert set(rows) == {f.name for f in dataclasses.fields(Settings)}
    assert all(row["help"] for row in rows.values())
    assert all(rows[name]["unit"] == "s" for name in rows if name.endswith("_s"))
    assert rows["challengers"]["default"] == "seasonal_naive, river_plain"


def test_the_fingerprint_holds_what_changes_state_and_nothing_else() -> None:
    one = Settings().fingerprint()
    assert Settings(port=1, data_dir="elsewhere", api_key="k").fingerprint() == one
    assert Settings(grace_s=1).fingerprint() != one
    assert Settings(horizon=28).fingerprint() == one
    assert not set(one) & {"api_key", "kafka_password", "redis_url", "grafana_token"}


def test_horizons_follow_the_bucket_unless_told() -> None:
    assert Settings(bucket="hour").horizons == 72
    assert Settings(bucket="week").scored_horizons == (1, 4, 13, 26)
    assert Settings(horizon=7).scored_horizons == (1, 7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "99999999"),
        ("stale_after_s", "inf"),
        ("stale_after_s", "nan"),
        ("grace_s", "9" * 20),
    ],
)
def test_a_value_beyond_all_bounds_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"`{name}` must be at"):
        load({f"SALESCAST_{name.upper()}": value})

"""Which places a tracking server has for its own."""

from __future__ import annotations

import pytest

from spineage.io.models.places import is_on_a_server, is_served_by, lies_within

SERVER = "https://anna:s3cret@mlflow.example/lab/"
BELOW = "lab/api/2.0/mlflow-artifacts/artifacts"


@pytest.mark.parametrize(
    ("place", "is_own"),
    {
        f"https://mlflow.example/{BELOW}/1/run": True,
        f"https://MLFLOW.example:443/{BELOW}/1/run": True,
        "mlflow-artifacts:/1/run/artifacts/bundle": True,
        "mlflow-artifacts://mlflow.example/1": True,
        "mlflow-artifacts://mlflow.example:443/1": True,
        "mlflow-artifacts://mlflow.example:5000/1": False,
        "mlflow-artifacts://evil.example/1": False,
        "mlflow-artifacts:/1/../2": False,
        "mlflow-artifacts:/1/%252e%252e/2": False,
        f"http://mlflow.example/{BELOW}/1": False,
        f"https://mlflow.example:444/{BELOW}/1": False,
        f"https://mlflow.example.evil.example/{BELOW}/1": False,
        f"https://mlflow.example@evil.example/{BELOW}/1": False,
        f"https://mlflow.example\\@evil.example/{BELOW}/1": False,
        f"https://evil.example/?https://mlflow.example/{BELOW}/1": False,
        f"https://mlflow.example/{BELOW}/1\n": False,
        f"https://mlflow.example/other/{BELOW}/1": False,
        f"https://mlflow.example:x/{BELOW}/1": False,
        f"https://[/{BELOW}/1": False,
        "https://mlflow.example/m": False,
    }.items(),
)
def test_a_place_is_the_servers_own_by_scheme_host_port_and_path(place: str, is_own: bool) -> None:
    assert is_on_a_server(place)
    assert is_served_by(place, SERVER) == is_own


@pytest.mark.parametrize("uri", ["sqlite:////w/mlflow.db", "postgresql://mlflow.example/m", "/w"])
def test_a_database_serves_no_files(uri: str) -> None:
    assert not is_served_by("mlflow-artifacts:/1", uri)
    assert not is_served_by("https://mlflow.example/api/2.0/mlflow-artifacts/artifacts/1", uri)


@pytest.mark.parametrize("place", ["ht\ntp://evil", " http://evil", "\x01HTTPS://evil"])
def test_a_scheme_is_known_however_it_is_written(place: str) -> None:
    assert is_on_a_server(place)


def test_a_folder_holds_what_lies_below_it_alone() -> None:
    roots = ["file:///w/1/run/artifacts", "s3://bucket/1/", ""]
    for place in ("file:///w/1/run/artifacts/bundle", "s3://bucket/1/x", "s3://bucket/1"):
        assert not is_on_a_server(place)
        assert lies_within(place, roots)
    for place in (
        "file:///w/1/run/artifactsx",
        "s3://bucket/10/x",
        "file:///w/1/run/artifacts/../x",
    ):
        assert not lies_within(place, roots)
    assert not lies_within("/etc", ["", "/"])

"""Logins, tokens and signatures come out of no address that is shown or kept."""

from __future__ import annotations

import pytest

from spineage.uris import digest_of_place, strip_logins, without_logins

ADDRESSES = {
    "ftp://anna:s3cret@host/archive": "ftp://host/archive",
    "ftp://anna:s3/cr@et:x@host:21/archive": "ftp://host:21/archive",
    "ftp://anna@host/archive": "ftp://host/archive",
    "http://:s3cret@host": "http://host",
    "s3://AKIA123:s3cret@bucket/key": "s3://bucket/key",
    "s3://bucket/key@v1/x": "s3://bucket/key@v1/x",
    "http://host:5000/path": "http://host:5000/path",
    "postgresql+psycopg2://mlflow:s3cret@db:5432/m": "postgresql+psycopg2://db:5432/m",
    "https://host/x?X-Amz-Signature=s3cret&token=s3cret": "https://host/x",
    "postgresql://db/m?user=anna&password=s3cret": "postgresql://db/m",
    "simplecache::ftp://anna:s3cret@host/x": "simplecache::ftp://host/x",
    "models:/spine-age@champion": "models:/spine-age@champion",
    "/archive/anna@home?x=1": "/archive/anna@home?x=1",
    "sqlite:////w/mlflow.db": "sqlite:////w/mlflow.db",
    "password=s3cret; AccountKey=s3cret": "password=***; AccountKey=***",
    "password='s3cret x' and more": "password=*** and more",
    'password="s3cret", user="anna"': 'password=***, user="anna"',
    r"password='s3\'cret x' and more": "password=*** and more",
    r"{'dsn': 'password=\'s3cret x\' host=h'}": "{'dsn': 'password=*** host=h'}",
    "password='s3cret": "password=***",
    "passphrase=s3'cret pwd=s3cret": "passphrase=*** pwd=***",
    "https://host/x;sig=s3cret": "https://host/x",
    "https://host/x;v=1;sig=s3cret#y": "https://host/x",
    "https://host/x#access=s3cret": "https://host/x",
    "s3://bucket/a;b#c": "s3://bucket/a;b#c",
    "postgresql://anna:s3\u00a0cret@host/m": "postgresql://host/m",
    "'http://anna:s3 cret@host/' and 'you@me'": "'http://host/' and 'you@me'",
    "http://host:5000: models:/a@b is not there": "http://host:5000: models:/a@b is not there",
}
VALUES = {
    "http://anna:s3cret horse battery@127.0.0.1:9/": "http://127.0.0.1:9/",
    "http://s3cret horse@host/": "http://host/",
    "postgresql://anna:s3?cret 1@host/m": "postgresql://host/m",
    "postgresql://host/m?user=anna&password=s3cret 1": "postgresql://host/m",
    "sqlserver://host;user=anna;password=s3cret 1": "sqlserver://host",
    "simplecache::ftp://anna:s3cret 1@host/x": "simplecache::ftp://host/x",
    "s3://bucket/key@v1/x y": "s3://bucket/key@v1/x y",
    "a text: with you@me": "a text: with you@me",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_loses_its_login_and_its_query(address: str) -> None:
    assert without_logins(address) == ADDRESSES[address]


@pytest.mark.parametrize("value", [*VALUES, *ADDRESSES])
def test_a_value_that_is_an_address_loses_a_login_with_blanks_too(value: str) -> None:
    kept = strip_logins({"uri": [value]})["uri"][0]
    assert "s3cret" not in kept
    assert kept == VALUES.get(value, kept)


def test_so_does_one_within_a_sentence() -> None:
    said = "cannot reach 'ftp://anna:s3cret@host/a?sig=s3cret' (530 Login incorrect), again later"
    assert without_logins(said) == "cannot reach 'ftp://host/a' (530 Login incorrect), again later"


def test_plain_values_lose_them_at_any_depth() -> None:
    study = {"inputs": {"scans": "ftp://a:b@h/x"}, "list": ["s3://k:s@b", 1, None], "n": 2.5}
    kept = {"inputs": {"scans": "ftp://h/x"}, "list": ["s3://b", 1, None], "n": 2.5}
    assert strip_logins(study) == kept


def test_a_place_is_told_from_another_whatever_the_login_says() -> None:
    one = digest_of_place("ftp://anna:old@host/archive")
    assert one == digest_of_place("ftp://anna:new@host/archive/")
    assert one != digest_of_place("ftp://host/archive2")
    assert digest_of_place("/a/b/../c") == digest_of_place("/a/c")
    assert "archive" not in one

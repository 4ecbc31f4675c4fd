"""Settings: one table read by flags, environment and help."""

import argparse
from dataclasses import fields
from typing import Any

import pytest

from rowcast.tasks.checks import is_loopback
from rowcast.tasks.settings import (
    BadSetting,
    Settings,
    add_flags,
    demand_broker,
    from_environment,
    read,
    worker_environment,
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in fields(Settings):
        monkeypatch.delenv(f"ROWCAST_{field.name.upper()}", raising=False)


def parsed(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read(parser.parse_args(list(arguments)))


# a value for each setting that is not its default, as text and as it arrives
VALUES: dict[str, tuple[str, Any]] = {
    "host": ("::1", "::1"),
    "port": ("8080", 8080),
    "database": ("other/x.db", "other/x.db"),
    "api_url": ("https://api.example.com/v1", "https://api.example.com/v1"),
    "tasks": ("one,two", "one,two"),
    "engine": ("celery", "celery"),
    "broker_url": ("rediss://user:word@host:6380/1", "rediss://user:word@host:6380/1"),
    "dashboard_url": ("https://jobs.example.com/jobs", "https://jobs.example.com/jobs"),
    "worker_token": ("s3cret-of-all", "s3cret-of-all"),
    "public_url": ("https://jobs.example.com", "https://jobs.example.com"),
    "proxies": ("127.0.0.1,10.0.0.0/8", "127.0.0.1,10.0.0.0/8"),
    "secret_key": ("a" * 32, "a" * 32),
    "notify": ('[{"channel":"email","to":"a@b.c"}]', '[{"channel":"email","to":"a@b.c"}]'),
    "notify_for": ("3600", 3600.0),
    "notify_hosts": ("hooks.internal,10.0.0.0/8", "hooks.internal,10.0.0.0/8"),
    "keep_days": ("0.5", 0.5),
    "keep_jobs": ("100", 100),
}
KNOWN = [field.name for field in fields(Settings) if field.name in VALUES]


def test_the_defaults_are_those_of_the_contract():
    made = Settings()
    assert (made.host, made.port, made.database, made.api_url) == ("127.0.0.1", 5001, "data/rowcast.db", "")
    assert parsed() == from_environment() == made


@pytest.mark.parametrize("name", KNOWN)
def test_each_setting_is_a_flag(name: str):
    text, value = VALUES[name]
    assert getattr(parsed(f"--{name.replace('_', '-')}", text), name) == value


@pytest.mark.parametrize("name", KNOWN)
def test_each_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch, name: str):
    text, value = VALUES[name]
    monkeypatch.setenv(f"ROWCAST_{name.upper()}", text)
    assert getattr(from_environment(), name) == value


def test_a_flag_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROWCAST_PORT", "1")
    assert parsed("--port", "2").port == 2


def test_the_webhook_of_all_jobs_and_its_secret_go_together():
    url = "https://hooks.example.com/all"
    secret = "whsec_" + "A" * 32
    usual = Settings(
        webhook_url=url, webhook_secret=secret, notify='[{"channel": "email", "to": "a@b.c"}]'
    ).usual
    assert [one.to for one in usual.always] == [url] and [one.to for one in usual.unless_said] == ["a@b.c"]
    for given in ({"webhook_url": url}, {"webhook_secret": secret}):
        with pytest.raises(BadSetting, match="go together"):
            Settings(**given)


def test_modules_of_tasks_are_separated_by_commas():
    assert Settings(tasks=" one, two.three ,,").modules == ["one", "two.three"]


WRONG = [
    ("host", ""), ("host", "two words"), ("host", "http://127.0.0.1"), ("proxies", "my-proxy"), ("proxies", "10.0.0.1/8"),
    ("user_header", "X User"), ("secret_key", "short"),
    ("port", -1), ("port", 65536),
    ("api_url", "example.com"), ("api_url", "ftp://example.com"), ("api_url", "http://"), ("public_url", "jobs.example.com"),
    ("public_url", "http://["), ("broker_url", "amqp://["),
    ("database", ""), ("database", ":memory:"), ("database", "file:x.db?mode=memory"), ("engine", "steam"), ("engine", ""),
    ("broker_url", "localhost:6379"), ("broker_url", "memcache://host"), ("broker_url", "amqp://"),
    ("dashboard_url", "jobs.example.com"), ("worker_token", "two words"), ("worker_token", "é"), ("worker_token", "a\nb"),
    ("notify", "ann@example.com"), ("notify", '[{"channel": "fax", "to": "1"}]'), ("notify_for", 0.0), ("notify_for", float("nan")),
    ("notify_hosts", "http://hooks.internal"), ("notify_hosts", "a b/c"), ("webhook_url", "hooks.example.com"),
    ("webhook_secret", "secret"), ("webhook_secret", "whsec_c2hvcnQ="), ("webhook_secret", "whsec_" + "A" * 32 + " more"),
    ("smtp_url", "mail.example.com"), ("smtp_url", "smtp://"), ("smtp_url", "http://mail"), ("smtp_url", "smtp://mail:port"),
    ("mail_from", "nobody"), ("mail_from", "a@example.com\nBcc: b@example.com"),
    ("keep_days", -1.0), ("keep_days", float("nan")), ("keep_days", float("inf")), ("keep_jobs", -1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_that_cannot_be_used_is_one_sentence_that_names_its_flag(name: str, value: Any):
    with pytest.raises(BadSetting) as error:
        Settings(**{name: value})
    assert str(error.value).startswith(f"--{name.replace('_', '-')} ") and str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_a_header_is_believed_of_listed_proxies_alone():
    with pytest.raises(BadSetting, match="--user-header needs --proxies too"):
        Settings(user_header="Remote-User")
    assert Settings(user_header="Remote-User", proxies="127.0.0.1").user_header == "Remote-User"


def test_a_queue_needs_a_broker_and_a_token():
    demand_broker(Settings())
    for given, missing in (({}, "broker-url"), ({"broker_url": "redis://host"}, "worker-token")):
        with pytest.raises(BadSetting, match=f"^--engine celery needs --{missing} "):
            demand_broker(Settings(engine="celery", **given))
    demand_broker(Settings(engine="dramatiq", broker_url="amqp://host", worker_token="t"))


def test_a_mail_server_needs_somebody_whom_mails_come_from():
    url = "smtps://ann:s%40cret@mail.example.com"
    with pytest.raises(BadSetting, match=r"^--smtp-url needs --mail-from too: "):
        Settings(smtp_url=url)
    assert Settings(smtp_url=url, mail_from="Ann <ann@example.com>").smtp_url == url


def test_a_worker_reads_its_settings_from_the_environment_and_nothing_of_the_dashboards(
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in (
        ("BROKER_URL", "redis://host"),
        ("WORKER_TOKEN", "t"),
        ("HOST", "0.0.0.0"),
        ("PORT", "many"),
    ):
        monkeypatch.setenv(f"ROWCAST_{name}", value)
    found = worker_environment()
    assert (found.broker_url, found.worker_token, found.tasks) == ("redis://host", "t", "")
    assert found.dashboard_url == "http://127.0.0.1:5001"


@pytest.mark.parametrize(
    ("name", "text"), [("port", "many"), ("port", ""), ("port", "1e3"), ("keep_days", "a week")]
)
def test_text_where_a_number_belongs_is_refused_by_the_name_it_came_by(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
):
    with pytest.raises(BadSetting, match=f"^--{name.replace('_', '-')} takes a number, not "):
        parsed(f"--{name.replace('_', '-')}", text)
    monkeypatch.setenv(f"ROWCAST_{name.upper()}", text)
    with pytest.raises(BadSetting, match=f"^ROWCAST_{name.upper()} takes a number, not "):
        from_environment()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"])
def test_these_hosts_mean_this_machine_alone(host: str):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "",
        "127.1",
        "testclient",
    ],
)
def test_these_do_not(host: str):
    assert not is_loopback(host)

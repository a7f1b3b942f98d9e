"""Which accounts a worker accepts, by its settings and its AWS configuration."""

from pathlib import Path

import pytest

from worker.domain.accounts import Standing, is_among, refusal_of
from worker.operations import accounts as accounts_module
from worker.operations.accounts import Accounts

ACCEPTED, FORBIDDEN, UNKNOWN = Standing.ACCEPTED, Standing.FORBIDDEN, Standing.UNKNOWN
CONFIG = """
[default]
region = us-east-1
[profile acme]
[profile customer-1]
[profile "with a blank"]
[profile *]
[plain]
[sso-session nobody]
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config"
    path.write_text(CONFIG)
    (tmp_path / "credentials").write_text("[only-keys]\naws_access_key_id = a\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return path


@pytest.mark.parametrize(
    ("allowed", "account", "standing"),
    [
        ("", "default", ACCEPTED),
        ("", "acme", ACCEPTED),
        ("", "with a blank", ACCEPTED),
        ("", "only-keys", ACCEPTED),
        ("", "Acme", UNKNOWN),
        ("", "plain", UNKNOWN),
        ("", "nobody", UNKNOWN),
        ("acme", "acme", ACCEPTED),
        ("acme", "customer-1", FORBIDDEN),
        ("acme", "default", FORBIDDEN),
        ("acme default", "default", ACCEPTED),
        ("customer-*", "customer-1", ACCEPTED),
        ("customer-*", "customer-2", UNKNOWN),
        ("customer-*", "acme", FORBIDDEN),
        ("customer-?", "customer-12", FORBIDDEN),
        ("acme nobody", "nobody", UNKNOWN),
    ],
)
def test_an_account_is_accepted_if_it_is_allowed_and_known(
    allowed: str, account: str, standing: Standing
) -> None:
    assert Accounts(allowed.split()).standing_of(account) is standing


def test_a_profile_that_is_added_or_removed_is_noticed(config: Path) -> None:
    accounts = Accounts()
    config.write_text(f"{CONFIG}[profile new]\n")
    assert accounts.standing_of("new") is ACCEPTED
    config.write_text(CONFIG)
    assert accounts.standing_of("new") is UNKNOWN


def test_a_worker_without_a_configuration_has_only_its_own_credentials(config: Path) -> None:
    config.unlink()
    (config.parent / "credentials").unlink()
    assert Accounts().standing_of("acme") is UNKNOWN
    assert Accounts().accepted() == {"default"}


def unreadable(config: Path) -> None:
    config.unlink()
    config.symlink_to(config)


def invalid(config: Path) -> None:
    config.write_text("[profile acme\n")


@pytest.mark.parametrize("broken", [unreadable, invalid])
def test_a_configuration_that_cannot_be_read_proves_nothing(config: Path, broken: object) -> None:
    assert callable(broken)
    broken(config)
    assert Accounts().standing_of("nobody") is ACCEPTED
    assert Accounts().accepted() == {"*"}
    assert Accounts(["customer-*"]).standing_of("customer-9") is ACCEPTED
    assert Accounts(["customer-*"]).standing_of("acme") is FORBIDDEN
    assert Accounts(["customer-*"]).accepted() == {"customer-*"}


def test_the_accepted_accounts_are_names_that_requests_can_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = {"default", "acme", "customer-1", "with a blank", "only-keys"}
    assert Accounts().accepted() == everything
    assert Accounts(["customer-*", "nobody"]).accepted() == {"customer-1"}
    monkeypatch.setattr(accounts_module, "MOST_NAMED", 2)
    assert Accounts().accepted() == {"*"}
    assert Accounts(["customer-*"]).accepted() == {"customer-*"}


def test_a_pattern_names_accounts_in_the_same_case() -> None:
    assert is_among("customer-1", {"acme", "customer-*"})
    assert not is_among("Customer-1", {"customer-*"})
    assert not is_among("acme", set())


def test_a_refusal_says_what_to_do() -> None:
    assert "IMPORTS_ACCOUNTS does not allow acme" in refusal_of("acme", FORBIDDEN)
    assert "no worker has an AWS profile acme" in refusal_of("acme", UNKNOWN)
    assert refusal_of("acme", ACCEPTED) == ""

"""What an app's configuration says about authentication, and files of user pools with mistakes."""

import json
from pathlib import Path

import pytest

from worker.cli.batchtext import BatchFileError
from worker.cli.plan.pools import read_pool_map
from worker.operations.inventory import Auth, auth_in


@pytest.mark.parametrize(
    ("meta", "auth"),
    [
        ({}, Auth.NONE),
        ({"auth": {}}, Auth.NONE),
        ({"auth": {"app1": {"service": "Cognito", "serviceType": "imported"}}}, Auth.IMPORTED),
        ({"auth": {"app1": {"service": "Cognito", "serviceType": "managed"}}}, Auth.MANAGED),
        ({"auth": {"app1": {"service": "Cognito"}}}, Auth.MANAGED),
        ({"auth": ["app1"]}, Auth.UNKNOWN),
        ({"auth": {"app1": None}}, Auth.UNKNOWN),
        ([], Auth.UNKNOWN),
        (None, Auth.UNKNOWN),
    ],
)
def test_the_configuration_says_what_an_environment_has(meta: object, auth: Auth) -> None:
    assert auth_in(json.dumps(meta)) is auth


def test_a_configuration_that_can_not_be_read_says_nothing() -> None:
    assert auth_in("") is Auth.UNKNOWN
    assert auth_in("{") is Auth.UNKNOWN


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("appId\nd1\n", "line 1: no column says which pools they get"),
        ("userPoolId\nus-east-1_A\n", "line 1: no column says for which apps a line is"),
        ("appId,pool\nd1,p\n", "line 1: unknown column 'pool'"),
        ("appId,priority,userPoolId\nd1,high,p\n", "line 1: unknown column 'priority'"),
        ("appId,App-Id,userPoolId\nd1,d1,p\n", "line 1: a column is given twice"),
        ("appId,userPoolId\n\nd1\n", "line 3: has 1 cells, the header has 2"),
        ('appId,userPoolId\nd1,"p\n', "is not CSV"),
    ],
)
def test_a_mistake_in_a_file_of_pools_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "pools.csv"
    path.write_text(content)
    with pytest.raises(BatchFileError) as error:
        read_pool_map(path)
    assert problem in str(error.value)


def test_patterns_blanks_and_other_separators_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "pools.csv"
    path.write_text("appName;userPoolId;web client id\nshop-*; p1 ;w1\n*;p2;w2\n")
    pools = read_pool_map(path)
    row = {"appId": "d1", "metadata.appName": "shop-eu"}
    assert pools.pools_of(row) == {"userPoolId": "p1", "webClientId": "w1"}
    assert pools.unused == [3]
    assert pools.pools_of({**row, "metadata.appName": "blog"})["userPoolId"] == "p2"
    assert pools.unused == []

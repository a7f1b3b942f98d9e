"""Batch files in the forms that people use, and the errors that are reported for bad ones."""

import csv
import gzip
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import members
from worker.cli.batchfile import BatchFile, read_batch
from worker.cli.batchtext import MAX_LINE_BYTES, BatchFileError

HEADER = "appId,backendEnvironmentName,userPoolId,webClientId,nativeClientId"
ROW = "d1,staging,us-east-1_AbCdEf123,webclient,nativeclient"
OTHER_ROW = "d2,staging,us-east-1_AbCdEf123,webclient,nativeclient"


@pytest.fixture
def batch_of(tmp_path: Path) -> Any:
    def read(content: str | bytes, name: str = "apps.csv") -> BatchFile:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_batch(path)

    return read


def problems(batch: BatchFile) -> list[str]:
    return [str(problem) for problem in batch.problems]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (f"{HEADER}\n{ROW}\n", "apps.csv"),
        (f"\ufeff{HEADER}\r\n{ROW}\r\n\r\n", "apps.csv"),
        (f"\n{HEADER}\n{ROW}\n,,,,", "apps.txt"),
        (
            "app_id,backend_environment_name,user_pool_id,web_client_id,native_client_id\n" + ROW,
            "apps",
        ),
        (json.dumps(members()) + "\n\n", "apps.jsonl"),
        ("\ufeff" + json.dumps(members()), "apps.json"),
        ("\r\n" + json.dumps(members()) + "\r\n", "apps.txt"),
    ],
)
def test_one_good_row_is_read_however_the_file_is_written(
    batch_of: Any, content: str, name: str
) -> None:
    batch = batch_of(content, name)
    assert problems(batch) == []
    assert [row.members for row in batch.rows] == [members()]


def test_cells_become_members_of_the_right_type_and_empty_ones_are_absent(batch_of: Any) -> None:
    batch = batch_of(
        f"{HEADER},region,priority,deadlineSeconds,importId,metadata.team,metadata.Cost Center\n"
        f"{ROW},,high,90.5,import-1,blue,\n{OTHER_ROW},eu-west-1,,,,,42\n"
    )
    assert [row.members for row in batch.rows] == [
        members(
            priority="high", deadlineSeconds=90.5, importId="import-1", metadata={"team": "blue"}
        ),
        members("d2", region="eu-west-1", metadata={"Cost Center": "42"}),
    ]


def test_metadata_may_be_one_column_of_json(batch_of: Any) -> None:
    batch = batch_of(f'{HEADER},metadata\n{ROW},"{{""team"": ""blue""}}"\n{OTHER_ROW},blue\n')
    assert [row.members["metadata"] for row in batch.rows] == [{"team": "blue"}]
    assert problems(batch) == ["line 3: metadata: is not JSON"]


def test_line_numbers_stay_right_after_cells_that_span_several_lines(batch_of: Any) -> None:
    batch = batch_of(
        f'{HEADER},metadata.note\n\n{ROW},"one\ntwo\nthree"\n'
        "d2,,us-east-1_AbCdEf123,webclient,nativeclient,\n"
        "d3,staging,us-east-1_AbCdEf123\n"
    )
    assert [row.line for row in batch.rows] == [3]
    assert problems(batch) == [
        "line 6: backendEnvironmentName: is required",
        "line 7: row: has 3 cells, the header has 6",
    ]
    assert batch.bad_rows == 2


def test_every_bad_value_is_named(batch_of: Any) -> None:
    batch = batch_of(
        f"{HEADER},deadlineSeconds,importId,priority\n{ROW},soon,,\n"
        "D1,staging,us-east-1_AbCdEf123,webclient,nativeclient,-1,no spaces,urgent\n"
    )
    assert batch.rows == []
    errors = problems(batch)
    assert errors[0] == "line 2: deadlineSeconds: is not a number"
    assert [text.split(": ")[:2] for text in errors[1:]] == [
        ["line 3", member] for member in ("importId", "appId", "priority", "deadlineSeconds")
    ]


def test_bad_json_lines_are_named_and_the_good_ones_kept(batch_of: Any) -> None:
    deep = "[" * 20_000
    lines = [json.dumps(members()), "{", "[]", '"text"', json.dumps(members("d2", colour=1)), deep]
    batch = batch_of("\n".join(lines), "apps.jsonl")
    assert [row.line for row in batch.rows] == [1]
    assert problems(batch) == [
        "line 2: row: is not JSON",
        "line 3: request: must be an object, got []",
        "line 4: request: must be an object, got 'text'",
        "line 5: colour: is not a member of an import request",
        "line 6: row: is not JSON",
    ]


def test_a_target_an_import_id_and_a_batch_may_not_contradict_an_earlier_line(
    batch_of: Any,
) -> None:
    rows = [
        members("d1", importId="i1", batchId="b1"),
        members("d1", account="default"),
        members("d1", account="other"),
        members("d2", import_id="i1"),
        members("d3", batch_id="b2"),
    ]
    batch = batch_of("\n".join(map(json.dumps, rows)), "apps.jsonl")
    assert [row.line for row in batch.rows] == [1, 3]
    assert batch.batch_id == "b1"
    assert problems(batch) == [
        "line 2: row: has the same target as line 1: d1/staging",
        "line 4: importId: is that of line 1 as well",
        "line 5: batchId: differs from that of line 1; a file is one batch",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (f"{HEADER}\n".encode(), "contains no requests"),
        (b"appId,colour\n", "line 1: unknown column 'colour'"),
        (b"appId;userPoolId\n", "line 1: the header lacks backendEnvironmentName, webClientId"),
        (b"appId:userPoolId\n", "separated by commas, semicolons, tabs or vertical bars"),
        (b"appId,Web Address\n", "line 1: unknown column 'Web Address'"),
        (b"\nappId,backendEnvironmentName\nd1,x\n", "line 2: the header lacks userPoolId, "),
        (f"{HEADER},app_id\n".encode(), "line 1: column appId is given twice"),
        (f"{HEADER},metadata.a,metadata.a\n".encode(), "column metadata.a is given twice"),
        (f"{HEADER},metadata,metadata.a\n".encode(), "one column or as metadata.KEY columns"),
        (f"{HEADER}\n{ROW}\nd\xe9".encode("latin-1"), "line 3: is not UTF-8"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16")[:-1], "line 2: is not UTF-16"),
        (f"{HEADER}\n{ROW}".encode("utf-16-le"), "as UTF-16 with a byte order mark"),
        (gzip.compress(f"{HEADER}\n{ROW}".encode())[:-9], "is a damaged or truncated gzip file"),
        (b"PK\x03\x04rest", "is a spreadsheet, or a ZIP file"),
        (b"\xd0\xcf\x11\xe0rest", "is a spreadsheet, or a ZIP file"),
        (b"sep=;\nappId;colour\n", "line 2: unknown column 'colour'"),
        (f"[{json.dumps(members())}\n{json.dumps(members())}]".encode(), "line 1: a comma or ]"),
        (f"[{json.dumps(members())}] x".encode(), "line 1: there is something after the end"),
        (f"[\n\n{json.dumps(members())},\n{{".encode(), "line 4: the element that begins here"),
        (b"[" * 100_000, "line 1: the element that begins here is not JSON"),
        (f'{HEADER}\n{ROW}\n"d2,staging\n'.encode(), "line 3: is not CSV, or a quote"),
        (f"{HEADER}\n{ROW}{'x' * MAX_LINE_BYTES}".encode(), "line 2: is longer than 65536 bytes"),
    ],
)
def test_a_file_that_is_not_a_batch_file_is_refused_with_a_reason(
    batch_of: Any, content: bytes, message: str
) -> None:
    with pytest.raises(BatchFileError) as raised:
        batch_of(content)
    assert message in str(raised.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_no_more_is_read_or_inflated_than_a_batch_can_hold(
    batch_of: Any, monkeypatch: pytest.MonkeyPatch, pack: Any
) -> None:
    monkeypatch.setattr("worker.cli.batchtext.MAX_FILE_BYTES", 1024**2)
    row = f"{HEADER}\n{ROW}".encode()
    assert batch_of(pack(row + b"\n" * (1024**2 - len(row)))).rows
    with pytest.raises(BatchFileError, match="is larger than 1 MiB; split it"):
        batch_of(pack(row + b"\n" * (1024**2 - len(row) + 1)))


TABLE = [HEADER.split(","), ROW.split(",")]
SEMICOLONS, TABS, BARS = ("\n".join(sep.join(cells) for cells in TABLE) for sep in ";\t|")
ONE = json.dumps(members())


@pytest.mark.parametrize(
    ("content", "name", "detected"),
    [
        (SEMICOLONS, "apps.csv", "semicolons, UTF-8"),
        (TABS, "apps.tsv", "tabs, UTF-8"),
        (BARS, "apps.txt", "vertical bars, UTF-8"),
        (SEMICOLONS.encode("utf-16"), "apps.csv", "semicolons, UTF-16"),
        (f"\ufeff{TABS}".encode("utf-16-be"), "apps.txt", "tabs, UTF-16"),
        (f"{HEADER}\r{ROW}\r", "apps.csv", ""),
        (f"sep=;\r\n{SEMICOLONS}", "apps.csv", "semicolons, UTF-8"),
        (f'"sep=,"\n{HEADER}\n{ROW}', "apps.csv", ""),
        (f"SEP=\t\n\t\t\n{TABS}", "apps.csv", "tabs, UTF-8"),
        (f"{HEADER}\n{ROW}".encode("utf-32"), "apps.csv", "commas, UTF-32"),
        (gzip.compress(f"{HEADER}\n{ROW}".encode()), "apps.csv.gz", "commas, UTF-8, gzip"),
        (gzip.compress(ONE.encode()), "apps.jsonl.gz", "JSON Lines, UTF-8, gzip"),
        (gzip.compress(SEMICOLONS[:9].encode()) + gzip.compress(SEMICOLONS[9:].encode()), "a", ...),
        (f"[{ONE}]", "apps.json", "JSON array, UTF-8"),
        (f"\n[\r\n  {json.dumps(members(), indent=2)},\r\n]\n", "apps", "JSON array, UTF-8"),
        (f"[{ONE}]".encode("utf-16"), "apps.json", "JSON array, UTF-16"),
        (f"{ONE} , \n", "apps.jsonl", ""),
        (f"{ONE}\r", "apps.csv", ""),
    ],
)
def test_the_format_of_a_file_is_detected_and_reported(
    batch_of: Any, content: str | bytes, name: str, detected: Any
) -> None:
    batch = batch_of(content, name)
    assert problems(batch) == []
    assert [row.members for row in batch.rows] == [members()]
    assert batch.detected == ("semicolons, UTF-8, gzip" if detected is ... else detected)


def test_the_separator_is_detected_from_the_header_alone(batch_of: Any) -> None:
    row = "d1;staging;us-east-1_AbCdEf123;webclient;nativeclient;a,b,c|d,e,f,g,h"
    batch = batch_of(f"{HEADER.replace(',', ';')};metadata.a,b\n{row}")
    assert [r.members["metadata"] for r in batch.rows] == [{"a,b": "a,b,c|d,e,f,g,h"}]


@pytest.mark.parametrize(
    "app_id", ["AppId", "App Id", "app_id", "APP-ID", " app\u00a0id ", "\ufeffappid\u200b", "APPID"]
)
def test_column_names_are_compared_without_case_blanks_and_punctuation(
    batch_of: Any, app_id: str
) -> None:
    table = batch_of(f"\ufeff{HEADER.replace('appId', app_id)},Meta Data.Cost Center\n{ROW},42\n")
    assert [row.members for row in table.rows] == [members(metadata={"Cost Center": "42"})]
    row = {app_id if name == "appId" else name: value for name, value in members().items()}
    assert [r.members for r in batch_of(json.dumps(row), "apps.jsonl").rows] == [members()]


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "\u3000", "\ufeff", "\u200b", "\u2060"])
def test_invisible_characters_around_a_value_are_ignored(batch_of: Any, blank: str) -> None:
    cells = ",".join(f"{blank}{cell}{blank}" for cell in ROW.split(","))
    assert [row.members for row in batch_of(f"{HEADER}\n{cells}\n{blank}").rows] == [members()]
    row = {name: f"{blank}{value}{blank}" for name, value in members().items()}
    assert [r.members for r in batch_of(json.dumps(row), "apps.jsonl").rows] == [members()]


def test_empty_columns_and_cells_are_ignored_and_a_value_without_a_column_name_is_refused(
    batch_of: Any,
) -> None:
    named = HEADER.replace("userPoolId", ",userPoolId")
    rows = [ROW, OTHER_ROW, ROW.replace("d1", "d3"), ROW.replace("d1", "d4")]
    first, second, third, fourth = (row.replace("us-east", ",us-east") for row in rows)
    batch = batch_of(
        f",\u00a0,,,,,\n{named},,\n{first},,\n,,,,,,,,\n{second}, ,\u00a0,,\n"
        f"{third},,lost\n{fourth.replace(',,', ',lost,')}\n{ROW}\n"
    )
    assert [row.members for row in batch.rows] == [members(), members("d2")]
    assert problems(batch) == [
        "line 6: row: has a value in column 8, which has no name in the header",
        "line 7: row: has a value in column 3, which has no name in the header",
        "line 8: row: has 5 cells, the header has 6",
    ]


def test_the_same_name_twice_in_json_is_refused_and_named(batch_of: Any) -> None:
    twice = ONE.removesuffix("}")
    lines = [
        f'{twice}, "appId": "d2"}}',
        f'{twice}, "app_id": "d2"}}',
        f'{twice}, "metadata": {{"team": "blue", "team": "red"}}}}',
    ]
    assert problems(batch_of("\n".join(lines), "apps.jsonl")) == [
        "line 1: appId: is given twice",
        "line 2: appId: is given twice",
        "line 3: team: is given twice",
    ]
    with pytest.raises(BatchFileError, match="line 2: appId: is given twice"):
        batch_of(f"[\n{lines[0]}]", "apps.json")
    cell = '"{""team"": 1, ""team"": 2}"'
    assert problems(batch_of(f"{HEADER},metadata\n{ROW},{cell}")) == [
        "line 2: metadata.team: is given twice"
    ]


def test_the_elements_of_an_array_have_the_lines_on_which_they_begin(batch_of: Any) -> None:
    rows = [members("d1"), members("D2"), members("d3", colour=1), 7]
    batch = batch_of(json.dumps(rows, indent=1).replace("\n", "\r\n"), "apps.json")
    assert [problem.split(",")[0] for problem in problems(batch)] == [
        "line 9: appId: must look like d2e1f0g9h8i7j6",
        "line 16: colour: is not a member of an import request",
        "line 24: request: must be an object",
    ]


def test_the_digest_depends_on_the_content_and_the_fingerprint_on_the_row(
    batch_of: Any,
) -> None:
    one, same = batch_of(f"{HEADER}\n{ROW}\n"), batch_of(f"{HEADER}\n{ROW}\n", "other.csv")
    longer = batch_of(f"{HEADER}\n{OTHER_ROW}\n{ROW}\n")
    assert one.digest == same.digest != longer.digest
    assert batch_of(gzip.compress(f"{HEADER}\n{ROW}\n".encode()), "x.gz").digest == one.digest
    assert one.rows[0].fingerprint == longer.rows[1].fingerprint != longer.rows[0].fingerprint


PIECES = [
    *(HEADER, ROW, OTHER_ROW, json.dumps(members()), ",metadata", ",metadata.a", ",importId"),
    *(";", "\t", "[", "]", "\ufeff,\n", "\u00a0"),
    *(",", '"', "\n", "\r", "\r\n", "{", "}", "\0", "\ufeff", "\u2028", " ", "1e999", "null"),
]


@given(
    content=st.binary(max_size=50)
    | st.builds(
        lambda pieces, encoding: "".join(pieces).encode(encoding),
        st.lists(st.sampled_from(PIECES)),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    ),
    suffix=st.sampled_from([".csv", ".jsonl", ""]),
)
def test_no_content_causes_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"junk{suffix}"
    path.write_bytes(content)
    with suppress(BatchFileError):
        batch = read_batch(path)
        assert batch.rows or batch.problems


def test_ten_times_the_rows_take_about_ten_times_as_long(tmp_path: Path) -> None:
    def cpu_seconds(rows: int) -> float:
        path = tmp_path / f"{rows}.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(HEADER.split(","))
            writer.writerows([f"d{number}", *ROW.split(",")[1:]] for number in range(rows))
        began = time.process_time()
        assert len(read_batch(path).rows) == rows
        return time.process_time() - began

    assert cpu_seconds(50_000) < 40 * cpu_seconds(
        5_000
    )  # quadratic behavior would take a hundred times as long

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.clam_tables import read_labels, read_split
from slpd_toolkit.mil.cohort.splits import Split

if TYPE_CHECKING:
    from pathlib import Path

HEADER = ",case_id,slide_id,site,survival_months,censorship,oncotree_code\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_label_table_becomes_manifest_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEADER
        + "1,TCGA-05-4250,TCGA-05-4250-01Z-00-DX1.90F.svs,5,3.98,0.0,LUAD\n"
        + "7,TCGA-NA-A4QY,TCGA-NA-A4QY-01Z-00-DX1.AAA,NA,12,1,LUSC\n"
        + "9,other,other.svs.svs,007,,,\n",
    )
    expected = pd.DataFrame(
        {
            "slide_id": ["TCGA-05-4250-01Z-00-DX1.90F", "TCGA-NA-A4QY-01Z-00-DX1.AAA", "other.svs"],
            "slide_path": ["TCGA-05-4250-01Z-00-DX1.90F.svs", "TCGA-NA-A4QY-01Z-00-DX1.AAA.svs", "other.svs.svs"],
            "patient_id": ["TCGA-05-4250", "TCGA-NA-A4QY", "other"],
            "site": ["05", "NA", "007"],
            "label": ["LUAD", "LUSC", None],
            "time": [3.98, 12.0, float("nan")],
            "event": pd.array([1, 0, None], dtype="Int64"),
        },
        index=range(2, 5),
    )
    pd.testing.assert_frame_equal(read_labels(path), expected)


def test_written_and_read_as_text_the_manifest_keeps_sites_and_events(tmp_path: Path) -> None:
    table = read_labels(write(tmp_path, HEADER + "1,TCGA-05-4250,TCGA-05-4250-01Z,5,3.98,0.0,LUAD\n2,b,b,1,2,1,LUSC\n"))
    table.to_csv(tmp_path / "manifest.csv", index=False)
    back = pd.read_csv(tmp_path / "manifest.csv", dtype=str, keep_default_na=False)
    assert back["site"].tolist() == ["05", "1"]
    assert back["event"].tolist() == ["1", "0"]


def test_a_site_that_contradicts_the_barcode_is_left_as_it_is(tmp_path: Path) -> None:
    table = read_labels(write(tmp_path, "case_id,slide_id,site\nTCGA-05-4250,a,7\nTCGA-A7-A0DB,b,7\n"))
    assert table["site"].tolist() == ["7", "7"]
    assert list(table) == ["slide_id", "slide_path", "patient_id", "site"]


def test_the_plain_clam_table_has_a_label_column(tmp_path: Path) -> None:
    table = read_labels(write(tmp_path, "case_id,slide_id,label\npatient_0,slide_1,tumor\n"))
    assert table.to_dict("records") == [
        {"slide_id": "slide_1", "slide_path": "slide_1.svs", "patient_id": "patient_0", "label": "tumor"}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,label\na,b\n", "column slide_id is missing; found case_id, label"),
        ("case_id,slide_id\np,a.svs\np,a\n", "1 duplicate slide: a"),
        (HEADER + "0,p,a,1,soon,1,X\n1,p,b,1,2,1,X\n", "survival_months is 'soon' in row 2"),
        (HEADER + "0,p,a,1,1,1,X\n1,p,b,1,-2,1,X\n", "survival_months is '-2' in row 3"),
        (HEADER + "0,p,a,1,inf,1,X\n", "survival_months is 'inf' in row 2"),
        (HEADER + "0,p,a,1,1,2,X\n", r"censorship is '2' in row 2.*Allowed: 1 \(censored\) or 0"),
        ("case_id,slide_id,censorship\np,a,1\n", "has only censorship"),
        ("", "cannot be read as UTF-8 CSV"),
    ],
    ids=["no slide_id", "twice", "text", "negative", "infinite", "censorship 2", "no months", "empty"],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(write(tmp_path, text))


def test_the_published_tables_are_read_whole(tcga_labels: Path) -> None:
    brca, nsclc = (read_labels(tcga_labels / f"tcga_{name}_clam_style.csv") for name in ("brca", "nsclc"))
    assert (len(brca), brca["patient_id"].nunique(), int(brca["event"].sum())) == (937, 897, 131)
    assert (len(nsclc), nsclc["patient_id"].nunique(), int(nsclc["event"].sum())) == (958, 862, 401)
    assert nsclc["label"].value_counts().to_dict() == {"LUAD": 492, "LUSC": 466}
    assert nsclc["site"].value_counts()["05"] == 20
    for table in (brca, nsclc):
        assert table["slide_id"].str[:12].tolist() == table["patient_id"].tolist()
        assert table["site"].tolist() == table["patient_id"].str[5:7].tolist()
        assert not table.isna().any().any()


def test_a_published_split_is_read_whole(tcga_labels: Path) -> None:
    split = read_split(tcga_labels / "tcga_brca_splits_1.csv", fold=1)
    assert split.fold == 1
    assert [len(part) for part in split.parts.values()] == [845, 98, 98]
    assert split.test[0] == "TCGA-EW-A3U0-01Z-00-DX1.526F60F9-D1EB-4613-B428-18A1FC0BAAE2"
    assert split.val[0] == "TCGA-BH-A1EN-01Z-00-DX1.F535657F-E2FA-4283-87AE-7DAB663B196B"


def test_a_split_has_parts_of_unequal_length(tmp_path: Path) -> None:
    path = write(tmp_path, ",train,val,test\n0,a.svs,c,NA\n1,b,,\n")
    assert read_split(path, fold=3) == Split(3, train=("a", "b"), val=("c",), test=("NA",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",train,val,test\na,True,False,False\nb,False,True,True\n", "contains true and false instead of slide IDs"),
        (",train,val,test\n0,a,,b\n", "val is empty"),
        (",train,test\n0,a,b\n", "column val is missing"),
        (",train,val,test\n0,a,c,d\n1,b,,d.svs\n", "1 slide is listed twice in test: d"),
    ],
    ids=["bool", "empty", "no val", "twice"],
)
def test_other_split_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_split(write(tmp_path, text), fold=0)

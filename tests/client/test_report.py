"""What a person reads of a job: the table at its end, and the lines while it runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gdmix_client import (
    CoordinateReport,
    FitProgress,
    GangMember,
    Job,
    JobEvent,
    JobState,
    MemberState,
    Metric,
    Notice,
    Progress,
    Published,
    StateChanged,
)
from gdmix_client.cli.progress import (
    PlainView,
    SilentView,
    member_lines,
    progress_view,
    stage_line,
    story_line,
)
from gdmix_client.cli.report import coordinates_table, summary

AUC = Metric(name="auc", value=0.71234)
USER_AUC = Metric(name="auc:user_id", value=0.65, entities=900, entities_undefined=43)


def report(name: str, pass_number: int, *, kept: bool, **changes: Any) -> CoordinateReport:
    """Return a report of a fixed effect `global`, or of a random effect of another name."""
    fixed = name == "global"
    return dataclasses.replace(
        CoordinateReport(
            name=name,
            kind="fixed_effect" if fixed else "random_effect",
            what="logistic_regression" if fixed else "user_id",
            pass_number=pass_number,
            entities=1 if fixed else 943,
            rows=80_000,
            coefficients=21,
            unconverged=0 if fixed else 5,
            statuses={"converged": 1 if fixed else 938},
            iterations=6,
            seconds=0.25,
            validation=(AUC, USER_AUC),
            kept=kept,
        ),
        **changes,
    )


def job(*reports: CoordinateReport) -> Job:
    return Job(
        job_id="j1",
        model="movielens",
        state=JobState.SUCCEEDED,
        started=10.0,
        ended=12.5,
        coordinates=reports,
        published=Published(
            store="lmdb:/s", version=3, activated=True, winner=None, directory="/m/3", content_digest="d"
        ),
        validation_rows=20_000,
    )


TWO_PASSES = [report(name, n, kept=n == 1) for n in (1, 2) for name in ("global", "per_user")]


# ---- the end ---------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_coordinate_of_the_kept_pass() -> None:
    header, _, first, second = coordinates_table(job(*TWO_PASSES)).splitlines()
    assert [cell.strip() for cell in header.split("  ") if cell] == [
        *("coordinate", "what it is", "entities", "rows", "auc", "auc:user_id", "time", "unconverged")
    ]
    cells = [[cell.strip() for cell in line.split("  ") if cell] for line in (first, second)]
    # Times are those of both passes.
    assert cells == [
        [
            "global",
            "one model for all (logistic_regression)",
            "1",
            "80,000",
            "0.7123",
            "0.6500",
            "0.5 s",
            "0",
        ],
        ["per_user", "a model per user_id", "943", "80,000", "0.7123", "0.6500", "0.5 s", "5"],
    ]


def test_the_summary_says_which_pass_was_published_and_where() -> None:
    text = summary(job(*TWO_PASSES))
    assert "on 20,000 validation rows" in text
    assert "Pass 1 of 2 measured best" in text
    assert "movielens, version 3 (active)" in text
    assert "/m/3" in text
    assert "lmdb:/s" in text
    assert "2.5 s" in text
    assert "numerics" not in text
    assert "numerics differed" in summary(dataclasses.replace(job(*TWO_PASSES), reproducible=False))


def test_entities_without_a_metric_are_counted() -> None:
    assert "auc:user_id is the mean over 900 entities; it is undefined for 43 others." in summary(
        job(*TWO_PASSES)
    )
    everybody = dataclasses.replace(USER_AUC, entities_undefined=0)
    text = summary(job(report("per_user", 1, kept=True, validation=(AUC, everybody))))
    assert "auc:user_id is the mean over 900 entities.\n" in text


def test_a_metric_without_a_value_says_why() -> None:
    undefined = Metric(name="auc", value=None, reason="all validation labels are alike")
    text = summary(job(report("global", 1, kept=True, validation=(undefined,))))
    assert "auc is undefined: all validation labels are alike." in text
    assert "undefined" in text.splitlines()[2]


def test_without_validation_there_is_nothing_of_metrics() -> None:
    text = summary(job(*(report("global", n, kept=n == 2, validation=()) for n in (1, 2))))
    assert "validation rows" not in text
    assert "measured" not in text
    assert "auc" not in text


# ---- while it runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (
            Progress(
                stage="training random effects", coordinate="per_user", pass_number=2, units_done=3,
                units_total=12, rows_done=60_000, entities_done=4_000, stage_seconds=2.0,
            ),
            (
                "per_user (pass 2): training random effects: 3/12 units, 30,000 rows/s, 2,000 entities/s, "
                "2.0 s, 6.0 s left"
            ),
        ),
        (
            Progress(
                stage="fitting the fixed effect", coordinate="global", pass_number=1, units_done=1,
                units_total=4, rows_done=800_000, round_number=4, stage_seconds=1.0, objective=51234.5678,
                gradient_ratio=123.456,
            ),
            (
                "global (pass 1): fitting the fixed effect: round 4, objective 51234.6, "
                "gradient 123 × tolerance, 800,000 rows/s, 1.0 s"
            ),
        ),
        (
            Progress(
                stage="fitting deep_text",
                coordinate="global",
                pass_number=1,
                units_total=1,
                stage_seconds=3.0,
                fit=FitProgress(
                    step=1_200, steps=2_000, rows=9, loss=0.41237, metrics={"auc": 0.81}, rows_per_second=5_120.4
                ),
            ),
            (
                "global (pass 1): fitting deep_text: step 1,200/2,000, loss 0.41237, auc 0.81, 5,120 rows/s, "
                "3.0 s"
            ),
        ),
        # Rates of an instant would be noise; a stage of one piece has no time that is left.
        (Progress(stage="inspect", units_total=1, rows_done=10, stage_seconds=0.1), "inspect: 0.1 s"),
        (
            Progress(stage="encoding", units_done=1, units_total=100, stage_seconds=61.0),
            "encoding: 1/100 units, 1 min 01 s, 1 h 40 min left",
        ),
    ],
)  # fmt: skip
def test_the_line_of_a_stage(progress: Progress, line: str) -> None:
    assert stage_line(progress) == line


def test_the_lines_of_a_gang() -> None:
    members = (
        GangMember(worker_id="worker-10", state=MemberState.FINISHED, address="10.0.0.1:4000"),
        GangMember(worker_id="w", state=MemberState.JOINING),
    )
    progress = Progress(stage="train", units_done=1, units_total=2, stage_seconds=9.0, members=members)
    # Members end together: how long the first one took says nothing about the others.
    assert stage_line(progress) == "train: 1/2 members finished, 9.0 s"
    assert member_lines(progress) == ["0  worker-10  finished  10.0.0.1:4000", "1  w          joining"]


def event(detail: Any, state: JobState = JobState.RUNNING) -> JobEvent:
    return JobEvent(job_id="j1", sequence=1, time=0.0, state=state, detail=detail)


STORY = [
    event(StateChanged(), JobState.QUEUED),
    event(Progress(stage="encoding", stage_seconds=0.1), JobState.QUEUED),
    event(StateChanged()),
    event(Progress(stage="encoding", stage_seconds=0.7, rows_done=700)),
    event(Progress(stage="training", coordinate="per_user", pass_number=1, stage_seconds=0.2)),
    event(report("per_user", 1, kept=False)),
    event(Notice(text="worker-1 was lost", warning=True)),
    event(Notice(text="pass 1 improved nothing")),
    event(Published(store="s", version=3, activated=False, winner=4, directory="d", content_digest="c")),
    event(StateChanged(), JobState.SUCCEEDED),
]


def test_a_plain_view_has_one_line_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    for happened in STORY:
        view.show(happened)
    view.close()
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [
        "job j1 is queued",
        "job j1 is running",
        "encoding: 1,000 rows/s, 0.7 s",
        "per_user (pass 1): training: 0.2 s",
        (
            "per_user (pass 1): 943 entities, 80,000 rows, 0.2 s, 5 unconverged, "
            "validation auc 0.7123, auc:user_id 0.6500"
        ),
        "warning: worker-1 was lost",
        "pass 1 improved nothing",
        "published version 3 (not activated)",
        "job j1 is succeeded",
    ]


def test_a_silent_view_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    view = progress_view(quiet=True)
    assert isinstance(view, SilentView)
    for happened in STORY:
        view.show(happened)
    view.close()
    assert capsys.readouterr().err == "warning: worker-1 was lost\n"


def test_progress_is_no_part_of_the_story() -> None:
    assert [bool(story_line(happened)) for happened in STORY] == [
        *(True, False, True, False, False),
        *[True] * 5,
    ]

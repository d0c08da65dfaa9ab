"""`gdmix-cli doctor`: checks the environment and says how to mend it."""

from __future__ import annotations

import typer

from gdmix_client.cli.options import (
    CoordinatorOption,
    JsonOption,
    StateDirOption,
    TlsCaOption,
    TokenFileOption,
)
from gdmix_client.cli.printing import result, result_document
from gdmix_client.cli.target import Target


def doctor(
    coordinator: CoordinatorOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    state_dir: StateDirOption = None,
    json: JsonOption = False,
) -> None:
    """Check this environment, and the coordinator where there is one."""
    from gdmix_client.diagnosis import Verdict, diagnose
    from gdmix_client.running_cluster import default_state_dir, find_cluster

    directory = state_dir or default_state_dir()
    connection = None
    if coordinator is not None:
        connection = Target(coordinator, token_file, tls_ca).connection()
    elif (running := find_cluster(directory)) is not None:
        connection = running.connection
    findings = list(diagnose(directory, connection))
    healthy = all(finding.verdict is not Verdict.BAD for finding in findings)
    if json:
        result_document(
            {
                "healthy": healthy,
                "findings": [
                    {"check": f.check, "verdict": f.verdict.value, "found": f.found, "mend": f.mend}
                    for f in findings
                ],
            }
        )
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            result(f"{finding.verdict.value:<4}  {finding.check:<{width}}  {finding.found}")
            if finding.mend:
                result(f"{'':<{width + 8}}→ {finding.mend}")
    if not healthy:
        raise typer.Exit(1)

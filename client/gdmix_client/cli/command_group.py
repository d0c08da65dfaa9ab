"""How commands end: one clear message on stderr and the exit code of the error, never a stack trace."""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.core import TyperGroup

from gdmix_client.cli.printing import note
from gdmix_core.errors import Cancelled, GdmixError

DEBUG_VARIABLE = "GDMIX_DEBUG"


class CommandGroup(TyperGroup):
    """The commands of gdmix-cli, with errors turned into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except GdmixError as error:
            _raise_if_debugging()
            note(f"gdmix-cli: {error}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _raise_if_debugging()
            note("gdmix-cli: interrupted")
            raise typer.Exit(Cancelled.exit_code) from error
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            # click's own exceptions (usage, exit, abort) are RuntimeErrors or pass through here untouched.
            if type(error).__module__.partition(".")[0] in {"click", "typer"} or isinstance(
                error, BrokenPipeError
            ):
                raise
            _raise_if_debugging()
            note(
                f"gdmix-cli: internal error: {type(error).__name__}: {error}\n"
                f"Set {DEBUG_VARIABLE}=1 to see where it happened."
            )
            raise typer.Exit(1) from error


def _raise_if_debugging() -> None:
    """Let the exception being handled through, with its stack trace, when somebody wants to see it."""
    if os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}:
        raise  # noqa: PLE0704 - called from except clauses only

"""`onnxcompress`: finds the verb, and turns every way a run can end into an exit code.

    0 done, 1 a check or budget failed, 2 wrong usage, 3 model or data unusable, 4 runtime or machine failed,
    130 interrupted

An error is one sentence of what is wrong and one of how to mend it, on standard error; a traceback is shown
with ``--debug`` alone. The last line on standard output then says FAILED, as for a result that did not pass.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from onnxcompress.cli import completion
from onnxcompress.cli.verbs import verbs
from onnxcompress.errors import OnnxCompressError, RuntimeFailure, UsageError
from onnxcompress.runtime import memory, patience
from onnxcompress.version import __version__

# Typer may carry its own copy of click, so the base of its errors is found here rather than imported.
_ParseError: type[Exception] = typer.BadParameter.__bases__[0].__bases__[0]
_FULL = (errno.ENOSPC, errno.EDQUOT)
_INTERRUPTED = 130


class _Verbs(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update({verb.name: verb.command() for verb in verbs()})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What is left for the verb; a request for the shell's part of completion ends here."""
        if not ctx.resilient_parsing and completion.requested(args):
            completion.give(args)
            raise typer.Exit
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="onnxcompress",
    cls=_Verbs,
    help="Make ONNX models smaller, and prove that they are as fast and as good.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"onnxcompress {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _interrupt(*_: object) -> None:
    """End as Ctrl-C does, so that what is half done is taken away."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    patience.end_on_signals()
    memory.keep_within_machine()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _warn
    completion.prepare()
    sys.exit(run(sys.argv[1:]))


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as a sentence, without the place in the code that it comes from."""
    if sys.stderr is not None:
        sys.stderr.write(f"warning: {message}\n")


def run(arguments: Sequence[str]) -> int:
    """The exit code of the command line with these arguments."""
    try:
        code = app(list(arguments), prog_name="onnxcompress", standalone_mode=False)
    except Exception as problem:
        if "--debug" in arguments:
            traceback.print_exc()
        code = _tell(problem, arguments)
    if code == _INTERRUPTED:
        _say("interrupted", "Outputs that were not finished are as they were before.", arguments)
    _flush()
    return code if isinstance(code, int) else 0


def _tell(problem: Exception, arguments: Sequence[str]) -> int:
    if type(problem).__name__ == "NoArgsIsHelpError" and isinstance(problem, _ParseError):
        typer.echo(str(problem), err=True)
        return UsageError.exit_code
    error = intended(problem)
    if error is None:
        what = f"internal error: {type(problem).__name__}: {problem}"
        error = RuntimeFailure(what, "Run it again with --debug, and report what it shows.")
    _say(error.message, error.hint, arguments)
    return error.exit_code


def intended(problem: BaseException) -> OnnxCompressError | None:
    """The error that this exception stands for, if it is none of our own mistakes."""
    if isinstance(problem, OnnxCompressError):
        return problem
    if isinstance(problem, _ParseError):
        return _usage(problem)
    if isinstance(problem, MemoryError) or (isinstance(problem, OSError) and problem.errno == errno.ENOMEM):
        return RuntimeFailure("the machine is out of memory", "Free memory, or use a smaller model or less data.")
    if isinstance(problem, OSError) and problem.errno in _FULL:
        return RuntimeFailure("the disk is full", "Free space in the folder of the output, or choose another one.")
    if isinstance(problem, OSError) and problem.filename is not None:
        return UsageError(f"{problem.filename}: {problem.strerror}", "Check that the path exists and its permissions.")
    return None


def _usage(problem: Any) -> UsageError:
    """An error of Typer's in our words: it lacks the sentence of how to mend it."""
    message = problem.format_message().replace("Value error, ", "").rstrip(".")
    command = problem.ctx.command_path if getattr(problem, "ctx", None) else "onnxcompress"
    return UsageError(message[:1].lower() + message[1:], f"Run '{command} --help' to see what is allowed.")


def _say(message: str, hint: str, arguments: Sequence[str]) -> None:
    from onnxcompress.cli.streams import stdout_taken
    from onnxcompress.render.closing import broken
    from onnxcompress.render.words import safe

    sys.stderr.write(f"error: {safe(message)}\n" + (f"hint: {safe(hint)}\n" if hint else ""))
    sys.stderr.flush()
    with contextlib.suppress(OSError, AttributeError):  # standard output may be closed, full, or gone
        (sys.stderr if stdout_taken(arguments) else sys.stdout).write(broken(message) + "\n")


def _flush() -> None:
    """Write out what is left; a reader that went away is no failure of the work that was done."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

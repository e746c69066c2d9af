"""Programs of the system, run without a shell and with a limit in time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from athena.errors import AthenaError

READ_SECONDS = 5.0
_LONGEST_COMPLAINT = 500


class CommandError(AthenaError):
    """A program could not be run, failed, or took too long; the message has its own words."""

    title = "Command failed"
    code = "command_failed"


Run = Callable[[Sequence[str], float], Awaitable[str]]
"""What runs a program within so many seconds and returns what it wrote; raises CommandError."""


async def run(arguments: Sequence[str], within: float) -> str:
    """Return the standard output of a program; raises CommandError. One that takes too long is killed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise CommandError(f"{arguments[0]} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(within):
            output, complaint = await process.communicate()
    except TimeoutError:
        raise CommandError(f"{' '.join(arguments)}: not done within {within:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = " ".join((complaint or output).decode(errors="replace").split())[:_LONGEST_COMPLAINT]
        raise CommandError(f"{' '.join(arguments)}: exit status {process.returncode}: {said}")
    return output.decode(errors="replace")

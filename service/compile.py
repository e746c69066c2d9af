#!/usr/bin/env python3
"""Compile the modules that every request goes through to machine code, in place.

usage: compile.py FOLDER

FOLDER is where the package is, as `site-packages`. Each module gets an extension beside its source, which Python takes
before it; without it the source runs as ever, so that nothing of this is needed. It takes what requirements-compile.txt
lists, a C compiler, and the headers of the Python that is to run them, which is the one that runs this.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# A request, and each piece of a stream, goes through these. What a profile shows beside them are the kernel, the
# event loop and the parser, which are machine code already. Not among them, though requests go through them: modules
# in which a `finally` awaits (a compiled one never lets go of an error that passes it, nor of the prompt that the
# error knows), those of whose coroutines one has functions of its own (compiled, the two know each other, and keep
# the prompt until the collector comes), those that have an asynchronous generator, and those that define a
# msgspec.Struct (its options are lost in a compiled class).
MODULES = (
    "athena/observability/gen_ai_metrics.py",
    "athena/observability/identity.py",
    "athena/observability/lines.py",
    "athena/observability/requests.py",
    "athena/observability/stamp.py",
    "athena/outbox.py",
    "athena/proxy/app.py",
    "athena/proxy/caller.py",
    "athena/proxy/callers.py",
    "athena/proxy/forward.py",
    "athena/proxy/forwarding.py",
    "athena/proxy/keyring.py",
    "athena/proxy/keys.py",
    "athena/proxy/server/coalescing.py",
    "athena/proxy/server/connection.py",
    "athena/proxy/server/eager.py",
    "athena/proxy/server/exchange.py",
    "athena/proxy/server/reading.py",
    "athena/router/admission.py",
    "athena/router/attempt.py",
    "athena/router/body.py",
    "athena/router/call.py",
    "athena/router/connection.py",
    "athena/router/dialects/__init__.py",
    "athena/router/dialects/lines.py",
    "athena/router/dialects/openai.py",
    "athena/router/dialects/responses.py",
    "athena/router/dispatch.py",
    "athena/router/engines/openai.py",
    "athena/router/engines/rendering.py",
    "athena/router/figures.py",
    "athena/router/gate.py",
    "athena/router/needing.py",
    "athena/router/shared_gate.py",
    "athena/router/upstream.py",
    "athena/router/upstream_reply.py",
)
# The same sources give the same files: nothing for a debugger, which would name folders.
ENVIRONMENT = {"MYPYC_OPT_LEVEL": "3", "MYPYC_DEBUG_LEVEL": "0"}


def main() -> None:
    """Compile, and put the extensions in place when all are there."""
    try:
        (folder,) = map(Path, sys.argv[1:])
    except ValueError:
        sys.exit("usage: compile.py FOLDER")
    if missing := [name for name in MODULES if not (folder / name).is_file()]:
        sys.exit(f"compile.py: {folder} lacks {', '.join(missing)}; name the folder that holds the package.")
    with tempfile.TemporaryDirectory(prefix="athena-compile-") as copy:
        shutil.copytree(folder / "athena", Path(copy, "athena"))
        command = [sys.executable, "-m", "mypyc", "--config-file=", "--ignore-missing-imports", *MODULES]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(command, cwd=copy, env=environment, text=True, capture_output=True, check=False)
        if done.returncode:
            sys.exit(f"compile.py: the modules could not be compiled:\n{done.stdout}{done.stderr}")
        for extension in (*Path(copy).glob("*.so"), *Path(copy, "athena").rglob("*.so")):
            shutil.copy(extension, folder / extension.relative_to(copy))


if __name__ == "__main__":
    main()

import json
import subprocess
import sys

FAIL = """
import structlog
from athena.observability import logs
logs.configure("admin")
password = "the-secret-of-a-local-variable"
try:
    raise ValueError("what happened")
except ValueError as error:
    structlog.get_logger().error("unexpected_error", exc_info=error)
"""


def test_the_log_of_an_error_holds_no_local_variables() -> None:
    done = subprocess.run([sys.executable, "-c", FAIL], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["exception"][0]["exc_value"] == "what happened"
    assert "the-secret-of-a-local-variable" not in done.stdout

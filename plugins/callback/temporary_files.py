"""Have temporary files of lookups and actions in the folder that Ansible removes at its end.

The client of Kubernetes writes the keys of a kubeconfig to files and removes them when its process ends. A worker of
Ansible ends without doing so: the keys would stay in the machine's folder for temporary files. Set here, before there
is a worker, it holds for all of them, and for no program that a task starts.
"""

import tempfile

from ansible import constants
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: temporary_files
type: aggregate
short_description: Leave no temporary file of a lookup or an action
description: Has their temporary files in the folder that Ansible removes at its end.
"""


class CallbackModule(CallbackBase):
    """Says nothing."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "temporary_files"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        tempfile.tempdir = constants.DEFAULT_LOCAL_TMP

#!/usr/bin/env python3
"""Make the archive of a Loki that knows its version, and ends at once. usage: broken_version.py ARCHIVE PROGRAM"""

import sys
import zipfile

PROGRAM = """#!/bin/sh
case $1 in
  -version) echo 'loki, version 3.7.9 (branch: , revision: unknown)' ;;
  -verify-config) ;;
  *) echo 'I do not serve'; exit 1 ;;
esac
"""

if __name__ == "__main__":
    with zipfile.ZipFile(sys.argv[1], "w") as archive:
        archive.writestr(zipfile.ZipInfo(sys.argv[2], (2026, 1, 1, 0, 0, 0)), PROGRAM)

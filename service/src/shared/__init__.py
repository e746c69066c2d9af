"""Import paths that callers already use; they re-export the package `athena`."""

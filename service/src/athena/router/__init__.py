"""Routing of prompts to engines: configuration snapshot, pure policy, upstream client, engines.

Nothing here imports the Admin API or the database: the configuration comes from a loader that the process hands over.
"""

"""The watcher on each host that runs engines: proves that they generate, and has those started anew that hang."""

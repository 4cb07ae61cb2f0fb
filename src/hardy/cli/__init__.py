"""The command line: thin, one command per job. Nothing here imports torch before a command runs."""

"""The main job: recorded runs of agents, played again by worker processes that share one memory, and then verified.

`recording` reads the files, `job` is the parent, `crew` its workers, `worker` one of those processes, `agent` what
plays one run there, `verdict` the check of every stored value against the files.
"""

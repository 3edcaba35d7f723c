"""The main job: recorded runs of agents, played again by worker processes that share one memory, and then verified.

`recording` reads the files, and `lesson` and `travel` what a run teaches; `job` is the parent, `crew` its workers,
`worker` one of those processes, `agent` what plays one run there; `check` compares every stored value with the files,
`sessions` and `knowledge` are its halves, and `verdict` is what it says.
"""

"""The ranks of a run, the signals that stop it, and the jobs that run it on a cluster."""

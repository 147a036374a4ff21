"""What would fail later, told in seconds: each check looks on every node of the cluster, and the driver judges.

asked.py     what a job's line asks for          base.py      the contract of a check, and what it finds
checks.py    all checks, in the table's order    hosts.py, data.py, models.py, cluster.py    the checks themselves
table.py     the table                           run.py       all of it on Ray
"""

"""``python -m trio_lio bench``: trio-lio against its rivals, each kind of work a module.

`_lab` runs servers in turn, round by round, on one CPU, and loads them from another;
`_servers` says which there are; `_report` shows what was found. Ratios are taken within a
round, where both sides met the same machine, and their median is the figure.
"""

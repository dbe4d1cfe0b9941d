"""Trackers: the course of a run, shown in an experiment tracker as well.

What a tracker gets is read from the run's files, so that a run that was killed and resumed, or was finished
long ago, is shown as one that was never stopped (`source.py`). Each tracker has a thread of its own
(`courier.py`), which can neither stop nor slow the run; `tracking.py` is the listener that wakes it.
"""

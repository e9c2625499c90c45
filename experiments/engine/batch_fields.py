"""The fields that every batch has, in each task.

``record`` is the number of each example's record, int64 ``[b]``. ``unreadable`` are the numbers of
the records that could not be read in its place, int64 ``[b, n]``, else -1.
"""

RECORD = "record"
UNREADABLE = "unreadable"

"""Names of the fields that the batches of every task have.

``record``: int64 ``[b]``, the number of the record of each example. ``unreadable``: int64
``[b, n]``, the numbers of the records that were tried for an example and could not be read, padded
with -1.
"""

RECORD = "record"
UNREADABLE = "unreadable"

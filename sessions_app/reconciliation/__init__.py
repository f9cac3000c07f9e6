"""Redis put right by PostgreSQL.

rebuild   after Redis was wiped, restarted or failed over: everybody signalled, the mirror written anew
mend      the queue of one session mended in place
mirrors   queues held against their rows, many short ones at once
long_queues  one that memory does not hold, in parts
stranded  sessions with something to send that nobody would look at
"""

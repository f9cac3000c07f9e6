"""Redis put right by PostgreSQL.

rebuild   after Redis was wiped, restarted or failed over: everybody signalled, the mirror written anew
mend      the queue of one session mended in place
stranded  sessions with something to send that nobody would look at
"""

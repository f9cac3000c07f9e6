"""How fast waqueue is, beside what one could use instead. Each benchmark is a module of `cases`.

    python -m benchmarks                        list and run all
    python -m benchmarks NAME [NAME ...]        run some
    python -m benchmarks NAME --rounds 7        more rounds, less chance
    python -m benchmarks NAME --quick           one short round: does it run at all?

What is measured: a real worker process, with the rows, fence, attempts, settle, events and mirror of every message, or
the real web server. A peer does what a careful user would have it do at least: one row update before the send, one
after it. Both use the same throw-away PostgreSQL (fsync on) and Valkey (append-only file on), in turn, in several
rounds; a ratio is that of one round, and the table shows the median of the rounds with the least and the greatest.

Start-up is not counted on either side. Ours counts from the signal that the sessions may be served to the commit of the
last outcome, watched from outside; a peer's rows say themselves when its first job began and its last one ended. Web
servers are posted to for a second before anything counts. `docs/performance.md` has what came of it.
"""

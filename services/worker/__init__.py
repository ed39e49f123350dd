"""Takes submissions from the queue, grades them, and sends what came of it.

Theory of operation
-------------------
The store is the truth and the queue a hint. Whatever Redis loses, delays or says twice changes
when a submission is graded, never whether or how often:

* `relay` puts the store's outbox on the queue, at least once each.
* `grading` takes a hint, sees that its sandbox answers, and only then claims the submission: one
  UPDATE that succeeds for one of all who try. A heartbeat renews the lease from a thread of its
  own. What the claim's fence no longer covers, the store does not write.
* `sweeper` brings back what a dead worker held and hints again what waits too long.
* `delivery` sends webhooks that are due, each leased, and records what came of it.

A candidate's fault is a report. A fault of ours puts the submission back with a growing pause
and, in the end, makes it dead: never a verdict. A worker whose sandbox does not answer claims
nothing, so an outage costs no attempts.

A worker is one process with a few threads, for the work itself happens in containers: SIGKILL
leaves no half of it behind, and a container ends with the process that made it. On SIGTERM it
takes no more hints and lets what runs finish; after `soft_stop_s` it hands it back, uncounted.
"""

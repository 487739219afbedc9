"""The same methods without jaxsel, to be measured beside it: one file a library, one class a method.

For distinct prompts and at least one rollout each; a peer does nothing else: no checks, no random tie-break, no
counters. `common.Peer` says what all of them can do.
"""

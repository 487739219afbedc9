"""The same methods without jaxsel, to compare with: one file per library, one class per method.

A peer takes distinct prompts with at least one rollout each. It does nothing else: it has no checks, no random
tie-break and no counters. `common.Peer` is the interface of all peers.
"""

"""The charts of a report, made with Altair."""

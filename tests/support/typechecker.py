"""The checker of the import hook in conftest.py: beartype, with an int wherever a float is asked for (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

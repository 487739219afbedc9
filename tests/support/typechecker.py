"""The checker of the import hook in conftest.py: beartype, which accepts an int for a float (PEP 484).

Of a sequence it checks the first item. By default beartype checks an item at random, so that a test with a wrong item
further on would meet the checker in one run, and jaxsel's own error in another.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, is_random=False))

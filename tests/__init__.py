"""The tests are a package, because the wheel of verl installs a package `tests` too, which would be found instead."""

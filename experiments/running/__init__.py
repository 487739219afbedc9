"""One training run or many: settings, folders, comparison and the help of the command line."""

"""What each setting of the methods and of the training is worth, measured by runs that differ in one setting."""

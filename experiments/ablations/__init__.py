"""What each part of a method contributes, measured by leaving it out."""

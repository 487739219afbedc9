"""Speed and memory of prompt selection, side by side with implementations in other libraries."""

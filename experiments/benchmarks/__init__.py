"""Speed and memory of the kernels, side by side with implementations in other libraries."""

"""What the kernels reach on a GPU: single operations and whole steps, against ceilings measured in the same run."""

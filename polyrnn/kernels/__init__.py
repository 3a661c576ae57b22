"""Optional recurrences written for one library, each equal to the reference and chosen only where it is faster."""
def find(backend, cell, x, valid): return None
def of_tape(r): return None

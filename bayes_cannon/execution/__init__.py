"""How work is run: threads, BLAS, and the programs that JAX compiles."""

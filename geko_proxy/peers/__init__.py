"""The other instances of GEKO on the same database: who runs, who reads which answer, and the way to them."""

"""Independent oracles: per-token loops written from the papers, sharing no code with pymoe and importing none of it."""

"""The layers: gradients, loops written from the papers, torch, precision, edges."""

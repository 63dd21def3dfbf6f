"""F5.5: parameter sharing: dense layers split into experts, experts and models fused, results integrated."""

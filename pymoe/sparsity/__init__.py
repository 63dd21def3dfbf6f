"""F4.5: which weights, units and experts of a layer may go: masks, scores, compensation, schedules, whole experts."""

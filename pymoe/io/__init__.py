"""F6: files.  Checkpoints (safetensors, written atomically, checked on load) and records of a run;
what a text is that is not UTF-8."""

from pymoe.io import atomic, checkpoint, encodings, records, tensors

__all__ = ["atomic", "checkpoint", "encodings", "records", "tensors"]

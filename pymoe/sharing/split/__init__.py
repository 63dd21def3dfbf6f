"""Dense feed-forwards made into experts: by copy, by partition, by pieces of copies, with units drawn anew."""

from pymoe.sharing import gates
from pymoe.sharing.split import partition
from pymoe.sharing.split.copies import drop_upcycle, upcycle
from pymoe.sharing.split.pieces import granular

__all__ = ["drop_upcycle", "gates", "granular", "partition", "upcycle"]

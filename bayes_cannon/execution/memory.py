"""How much memory this computer has."""

import os


def physical_memory() -> float:
    """Bytes of memory; infinite where the system does not say."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
    return memory if memory > 0 else float("inf")

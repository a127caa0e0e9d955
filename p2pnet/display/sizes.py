"""Writes numbers of bytes as people read them."""


def size(size_bytes: float) -> str:
    """In the unit that fits: 12 kB, 340 MB, 1.25 GB."""
    if size_bytes >= 1e9:
        return f"{size_bytes / 1e9:.2f} GB"
    return f"{size_bytes / 1e6:.0f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"

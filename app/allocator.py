"""What glibc's allocator does with freed memory, as environment variables for processes that compute.

By default it hands large blocks back to the system and maps them anew: each pass through a network then takes page
faults for all its temporaries, measured as up to a quarter of a training step or of a batch of forecasts
(docs/benchmarks.md). Other C libraries ignore these names.
"""

MIB = 1 << 20

RUN = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""A run keeps all it frees: it does one thing, and its end gives everything back."""

SERVICE = {"MALLOC_MMAP_THRESHOLD_": str(32 * MIB), "MALLOC_TRIM_THRESHOLD_": str(256 * MIB)}
"""What lives long keeps 256 MiB; blocks beyond 32 MiB, the most that glibc takes here, still go back at once."""

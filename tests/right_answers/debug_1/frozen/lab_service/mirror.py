"""Tasks that look at their own process."""

import ctypes
import gc
import math
import os
import tracemalloc
from collections import Counter, defaultdict

import psutil
from celery import shared_task

MIB = 1 << 20
PIECE = 1 << 15


@shared_task(bind=True, name="memory_debug.memory_intensive_task")
def memory_intensive_task(self, data_size):
    """Touch memory in pieces of 32 KiB, give it back, and tell what that did."""
    try:
        if isinstance(data_size, (bool, str)) or not 0 < data_size <= 512:
            raise ValueError
        size = math.ceil(data_size * MIB)
    except (TypeError, ValueError):
        raise ValueError(f"{self.name}: not a number above 0 and up to 512") from None
    process = psutil.Process()
    marks = [process.memory_info().rss / MIB]
    pieces = [b"\xa5" * min(PIECE, size - at) for at in range(0, size, PIECE)]
    marks.append(process.memory_info().rss / MIB)
    del pieces
    marks.append(process.memory_info().rss / MIB)
    start, peak, end = marks
    return dict(
        start_memory_mb=start,
        peak_memory_mb=max(marks),
        end_memory_mb=end,
        memory_increase_mb=end - start,
        data_size_mb=data_size,
    )


class Info(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefg"] + [
        ("used", ctypes.c_size_t),
        ("free", ctypes.c_size_t),
        ("top", ctypes.c_size_t),
    ]


def gaps():
    """Return the bytes that are free inside of C's heap and still resident, after trimming."""
    libc = ctypes.CDLL(None)
    try:
        libc.mallinfo2.restype = Info
        libc.malloc_trim(0)
        info = libc.mallinfo2()
    except AttributeError:
        return 0
    gone = sum(
        area.size - area.rss
        for area in psutil.Process().memory_maps(grouped=False)
        if area.path == "[heap]"
    )
    return info.free - gone


@shared_task(name="memory_debug.diagnose")
def diagnose(top=10):
    """Tell what lives in this process, and what was allocated since the previous call."""
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    traces = tracemalloc.take_snapshot().traces
    tracemalloc.clear_traces()
    size, count = defaultdict(int), Counter()
    for trace in traces:
        frame = trace.traceback[0]
        inside = frame.filename.startswith(os.getcwd() + os.sep)
        site = f"{os.path.relpath(frame.filename) if inside else frame.filename}:{frame.lineno}"
        size[site] += trace.size
        count[site] += 1
    del traces
    types = Counter(type(thing).__name__ for thing in gc.get_objects()).most_common(top)
    fragmented = gaps() * 4 >= psutil.Process().memory_info().rss
    return {
        "pid": os.getpid(),
        "rss_mb": psutil.Process().memory_info().rss / MIB,
        "open_files": psutil.Process().num_fds() - 1,  # the listing's own is closed by now
        "objects": [{"type": name, "count": number} for name, number in types],
        "allocations": [
            {"site": site, "size_kb": size[site] / 1024, "count": count[site]}
            for site in sorted(size, key=size.get, reverse=True)[:top]
        ],
        "gc": {"enabled": gc.isenabled(), "counts": gc.get_count()},
        "fragmented": fragmented,
    }

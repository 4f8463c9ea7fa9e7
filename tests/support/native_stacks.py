"""Find out where the threads of a process hang in C code, where Python can no longer tell. Linux only."""

import os
import struct
from pathlib import Path

WORDS = 512
"""Words of a stack to search."""


def native_stacks(group: int) -> str:
    """Describe every thread of a process group: the kernel's state of it, and the libraries whose code its stack names."""
    lines = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if os.getpgid(int(process.name)) == group:
                lines += [_thread(process, task) for task in sorted(process.glob("task/*"))]
        except (OSError, ValueError) as error:
            lines.append(f"{process.name}: {error}")
    return "\n".join(lines)


def _thread(process: Path, task: Path) -> str:
    state = (task / "syscall").read_text().split()  # number, six arguments, stack pointer, program counter
    head = f"process {process.name}, thread {task.name}, {(task / 'wchan').read_text()}, call {state[0]}:"
    if len(state) < 3:  # it is running
        return head
    code = _code(process)
    with (process / "mem").open("rb", buffering=0) as memory:
        memory.seek(int(state[-2], 16))
        stack = memory.read(8 * WORDS)
    words = struct.unpack(f"<{len(stack) // 8}Q", stack[: len(stack) // 8 * 8])
    named = [f"{name}+{word - base:#x}" for word in words for low, high, base, name in code if low <= word < high]
    return " ".join((head, *named))


def _code(process: Path) -> list[tuple[int, int, int, str]]:
    code, first = [], dict[str, int]()
    for line in (process / "maps").read_text().splitlines():
        span, rights, _, _, _, *path = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if path and path[0].startswith("/"):
            base = first.setdefault(path[0], low)
            if "x" in rights:
                code.append((low, high, base, Path(path[0]).name))
    return code

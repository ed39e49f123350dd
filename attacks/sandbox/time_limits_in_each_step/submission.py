"""Sleeps past the limit of the first step, then goes on."""

import contextlib
import ctypes
import os
import stat
import struct
import sys
import time

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
    """Time limits in each step."""
    if __name__ != "__main__":  # as in the first step alone
        time.sleep(100)
    print("attack: over", flush=True)


attack()


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
    return {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}


if __name__ == "__main__":
    main()

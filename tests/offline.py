"""Imported, it takes the network from this process of tests and from everything that it starts, where it may."""

import ctypes
import fcntl
import os
import socket
import struct

NEW_NETWORK = 0x40000000  # CLONE_NEWNET
SET_FLAGS, UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP


def cut_off() -> bool:
    """Move into a network of its own that has a loopback and nothing else, where the kernel lets us; whether it did.

    Threads that there are stay where they were, and so do their children.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None or unshare(NEW_NETWORK):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh", b"lo", UP))
    return True


ALONE = cut_off()

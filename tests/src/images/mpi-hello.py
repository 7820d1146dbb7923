#!/usr/bin/python3
"""mpi-hello in Python: says where each rank is, after a ring of messages and a sum over all."""
import os
import platform
from mpi4py import MPI

world = MPI.COMM_WORLD
rank, size = world.rank, world.size
left, right = (rank - 1) % size, (rank + 1) % size
assert world.sendrecv(rank, dest=right, source=left) == left
total = world.allreduce(rank)
assert total == size * (size - 1) // 2

if rank == 0:
    print(f"{size} ranks, sum of ranks {total}", flush=True)
node = os.environ.get("SLURMD_NODENAME", "an unknown node")
print(f"rank {rank} of {size} on {node} in {platform.freedesktop_os_release()['PRETTY_NAME']}", flush=True)

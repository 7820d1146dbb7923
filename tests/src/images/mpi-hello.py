#!/usr/bin/python3
"""mpi-hello in Python: says where each rank is, after a ring of messages and a sum over all. With the argument
"libraries" each rank also says which MPI it runs on, as mpi-hello does."""
import os
import platform
import re
import sys
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
if sys.argv[1:] == ["libraries"]:
    version = re.split("[,\n]", MPI.Get_library_version())[0]
    print(f"rank {rank} runs {version}", flush=True)
    names = re.compile(r"lib(mpi|pmpi|fabric|open-|ucp|pmix)")
    mapped = [line.split() for line in open("/proc/self/maps")]
    files = {m[5]: m[4] for m in mapped if len(m) > 5 and names.match(os.path.basename(m[5]))}
    for path, inode in files.items():
        print(f"rank {rank} maps {path} inode {inode}", flush=True)

! mpi-hello in Fortran: the same ring, sum and lines, by 'use mpi'.
program hello
    use mpi
    implicit none
    integer :: rank, ranks, from_left, total, error, length
    integer :: status(MPI_STATUS_SIZE)
    character(len=MPI_MAX_LIBRARY_VERSION_STRING) :: version
    character(len=256) :: node

    call MPI_Init(error)
    call MPI_Comm_rank(MPI_COMM_WORLD, rank, error)
    call MPI_Comm_size(MPI_COMM_WORLD, ranks, error)
    call MPI_Sendrecv(rank, 1, MPI_INTEGER, mod(rank + 1, ranks), 0, &
                      from_left, 1, MPI_INTEGER, mod(rank + ranks - 1, ranks), 0, MPI_COMM_WORLD, status, error)
    call MPI_Allreduce(rank, total, 1, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, error)
    if (from_left /= mod(rank + ranks - 1, ranks) .or. total /= ranks * (ranks - 1) / 2) stop 1

    call get_environment_variable('SLURMD_NODENAME', node)
    call MPI_Get_library_version(version, length, error)
    length = min(length, scan(version, ',' // char(10) // char(0)) - 1)
    if (rank == 0) print '(i0, a, i0)', ranks, ' ranks, sum of ranks ', total
    print '(a, i0, a, i0, a, a, a)', 'rank ', rank, ' of ', ranks, ' on ', trim(node), ' in Fortran'
    print '(a, i0, a, a)', 'rank ', rank, ' runs ', version(1:length)
    flush (6)
    call print_mapped(rank)
    call MPI_Finalize(error)
end program

/* Says where each rank is, after the ranks have really talked: a ring of messages and a sum over all.
 * With the argument "libraries" each rank also says which MPI it runs on: what MPI calls itself, and the files of MPI
 * and fabric that are mapped into the process, with their inodes. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi-mapped.h"

static void os_name(char *name, size_t size)
{
    char line[256];
    FILE *file = fopen("/etc/os-release", "r");

    snprintf(name, size, "an unknown system");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "PRETTY_NAME=", 12) == 0) {
            char *start = line + 12 + (line[12] == '"');
            start[strcspn(start, "\"\n")] = 0;
            snprintf(name, size, "%s", start);
        }
    }
    if (file)
        fclose(file);
}

static void libraries(int rank)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;

    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = 0;
    printf("rank %d runs %s\n", rank, version);
    print_mapped(rank);
}

int main(int argc, char **argv)
{
    int rank, size, from_left = -1, sum = 0;
    char system[256];
    const char *node = getenv("SLURMD_NODENAME");

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
#ifdef NEW_FUNCTION
    /* New in MPI 4.1: older libraries do not have it. */
    static char buffer[1 << 16];
    MPI_Comm_attach_buffer(MPI_COMM_WORLD, buffer, sizeof buffer);
#endif
    int right = (rank + 1) % size, left = (rank + size - 1) % size;
    MPI_Sendrecv(&rank, 1, MPI_INT, right, 0, &from_left, 1, MPI_INT, left, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    int wrong = from_left != left || sum != size * (size - 1) / 2;

    os_name(system, sizeof system);
    if (rank == 0)
        printf("%d ranks, sum of ranks %d\n", size, sum);
    printf("rank %d of %d on %s in %s\n", rank, size, node ? node : "an unknown node", system);
    if (argc > 1 && strcmp(argv[1], "libraries") == 0)
        libraries(rank);
    if (wrong)
        fprintf(stderr, "rank %d: got %d from the left, sum %d\n", rank, from_left, sum);
    MPI_Finalize();
    return wrong;
}

/* What two ranks pay, as the OSU benchmarks measure it: half a ping-pong's round trip with 8 bytes, the bandwidth of one
 * with 4 MiB, and an allreduce of 8 bytes. Each is the median of blocks, which a busy machine disturbs less than a mean. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 21, LARGE = 4 << 20 };

static int rank;
static char *buffer;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void pingpong(int bytes)
{
    if (rank == 0) {
        MPI_Send(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
        MPI_Recv(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else {
        MPI_Recv(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Send(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
    }
}

static void allreduce(int bytes)
{
    static double in, out;

    (void)bytes;
    MPI_Allreduce(&in, &out, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

/* Microseconds of one call, the median of all blocks. */
static double timed(void (*call)(int), int bytes, int calls)
{
    double took[BLOCKS];

    for (int i = 0; i < calls; i++)
        call(bytes);
    for (int block = 0; block < BLOCKS; block++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        for (int i = 0; i < calls; i++)
            call(bytes);
        took[block] = (MPI_Wtime() - start) * 1e6 / calls;
    }
    qsort(took, BLOCKS, sizeof *took, ascending);
    return took[BLOCKS / 2];
}

int main(int argc, char **argv)
{
    int ranks, length;
    char version[MPI_MAX_LIBRARY_VERSION_STRING];

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = 0;
    buffer = calloc(1, LARGE);
    if (ranks != 2 || !buffer) {
        fprintf(stderr, "it takes two ranks, not %d\n", ranks);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    double small = timed(pingpong, 8, 300) / 2, large = timed(pingpong, LARGE, 4) / 2;
    double sum = timed(allreduce, 8, 300);
    if (rank == 0)
        printf("runs %s\nlatency %.3f\nbandwidth %.1f\nallreduce %.3f\n", version, small, LARGE / large, sum);
    MPI_Finalize();
    return 0;
}

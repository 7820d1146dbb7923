/* For programs in Fortran: call print_mapped(rank). */
#include "mpi-mapped.h"

void print_mapped_(int *rank)
{
    print_mapped(*rank);
    fflush(stdout);
}

/* No MPI can be had for musl here: these few functions are enough to be one by its symbols. */
#ifdef LIBRARY
#define FUNCTION(name, type) int MPI_##name(type) { return 0; } int PMPI_##name(type) { return 0; }
FUNCTION(Init, void)
FUNCTION(Comm_rank, void)
FUNCTION(Finalize, void)
#else
int MPI_Init(void), MPI_Comm_rank(void), MPI_Finalize(void);

int main(void)
{
    return MPI_Init() + MPI_Comm_rank() + MPI_Finalize();
}
#endif

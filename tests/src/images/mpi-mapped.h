/* The files of MPI, fabric and its providers in this process, from /proc/self/maps (proc(5)): a line for each, with the inode, which
 * tells a host's file from an image's whatever path it is bound on. */
#include <stdio.h>
#include <string.h>

static void print_mapped(int rank)
{
    static const char *const names[] = {"libmpi", "libpmpi", "libfabric", "libopen-", "libucp", "libpmix"};
    char line[4096], last[4096] = "", path[4096];
    unsigned long inode;
    FILE *maps = fopen("/proc/self/maps", "r");

    while (maps && fgets(line, sizeof line, maps)) {
        const char *name;
        int ours = 0;

        if (sscanf(line, "%*s %*s %*s %*s %lu %4095[^\n]", &inode, path) != 2)
            continue;
        name = strrchr(path, '/');
        for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
            ours |= strncmp(name + 1, names[i], strlen(names[i])) == 0;
        ours |= name && strstr(name, "-fi.so");
        if (ours && strcmp(path, last) != 0) {
            printf("rank %d maps %s inode %lu\n", rank, path, inode);
            snprintf(last, sizeof last, "%s", path);
        }
    }
    if (maps)
        fclose(maps);
}

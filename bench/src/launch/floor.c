/* The floor of a launch: the system calls that a container of the same mounts cannot do without, and nothing else.
 *
 * No checks, no resolution of paths, no policy. Reads a recipe from standard input, one word to a line:
 *   image PATH | dir PATH | file PATH | bind SOURCE DESTINATION ro|rw dev|nodev | text DESTINATION | repeat N
 * and prints the microseconds of each repetition: thread started to namespace in hand.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 512

struct bind { char *source, *destination; int readonly, devices, fd; };

static char *image, *made[MOST], *texts[MOST];
static int directory[MOST], mades, text_count, bind_count, repeat = 1;
static struct bind binds[MOST];

static long must(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static int loop_mount(void)
{
	int file = must(open(image, O_RDONLY | O_CLOEXEC), image);
	int control = must(open("/dev/loop-control", O_RDWR | O_CLOEXEC), "loop-control");
	struct loop_config config = { .fd = file, .info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR };
	char name[32];
	int device, done;
	do {
		snprintf(name, sizeof name, "/dev/loop%ld", must(ioctl(control, LOOP_CTL_GET_FREE), "LOOP_CTL_GET_FREE"));
		device = must(open(name, O_RDONLY | O_CLOEXEC), name);
		done = ioctl(device, LOOP_CONFIGURE, &config);
		if (done < 0)
			close(device);
	} while (done < 0);
	int fs = must(syscall(SYS_fsopen, "squashfs", FSOPEN_CLOEXEC), "fsopen(squashfs)");
	must(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", name, 0), "fsconfig");
	must(syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "ro", NULL, 0), "fsconfig");
	must(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "fsconfig(create)");
	int mount = must(syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY), "fsmount");
	close(fs), close(device), close(control), close(file);
	return mount;
}

static int new_mount(const char *kind, const char *key, const char *value, unsigned attributes)
{
	int fs = must(syscall(SYS_fsopen, kind, FSOPEN_CLOEXEC), kind);
	must(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0), key);
	must(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0), kind);
	int mount = must(syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes), kind);
	close(fs);
	return mount;
}

static void confine(int tree, unsigned long set)
{
	struct mount_attr attr = { .attr_set = set, .propagation = 1 << 19 /* MS_SLAVE */ };
	must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr), "mount_setattr");
}

static int clone_tree(int from, const char *path)
{
	return must(syscall(SYS_open_tree, from, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE), path);
}

static void attach(int mount, int dir, const char *path)
{
	while (dir != AT_FDCWD && *path == '/')
		path++;
	must(syscall(SYS_move_mount, mount, "", dir, path, MOVE_MOUNT_F_EMPTY_PATH), path);
}

static void *build(void *result)
{
	int squashfs = loop_mount();
	for (int i = 0; i < bind_count; i++) {
		binds[i].fd = clone_tree(AT_FDCWD, binds[i].source);
		confine(binds[i].fd, MOUNT_ATTR_NOSUID | (binds[i].devices ? 0 : MOUNT_ATTR_NODEV) |
			(binds[i].readonly ? MOUNT_ATTR_RDONLY : 0));
	}
	must(unshare(CLONE_FS | CLONE_NEWNS), "unshare");
	int root = must(open("/", O_PATH | O_CLOEXEC), "/");
	confine(root, 0);
	close(root);
	int namespace = must(open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC), "ns/mnt");
	int scratch = new_mount("tmpfs", "mode", "0755", 0);
	attach(scratch, AT_FDCWD, "/dev");
	must(fchdir(scratch), "fchdir");
	mkdir("root", 0755), mkdir("image", 0755), mkdir("missing", 0755);
	attach(squashfs, AT_FDCWD, mades ? "image" : "root");
	int rootfs = squashfs;
	if (mades) {
		must(chdir("missing"), "missing");
		for (int i = 0; i < mades; i++)
			must(directory[i] ? mkdir(made[i], 0755) : mknod(made[i], S_IFREG | 0644, 0), made[i]);
		must(fchdir(scratch), "fchdir");
		rootfs = new_mount("overlay", "lowerdir", "missing:image", MOUNT_ATTR_RDONLY);
		attach(rootfs, AT_FDCWD, "root");
		close(squashfs);
	}
	for (int i = 0; i < bind_count; i++) {
		attach(binds[i].fd, rootfs, binds[i].destination);
		close(binds[i].fd);
	}
	for (int i = 0; i < text_count; i++) {
		char name[16];
		snprintf(name, sizeof name, "text%d", i);
		int file = must(openat(scratch, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0444), name);
		must(write(file, "text\n", 5), name);
		close(file);
		int tree = clone_tree(scratch, name);
		confine(tree, MOUNT_ATTR_RDONLY);
		attach(tree, rootfs, texts[i]);
		close(tree);
	}
	must(fchdir(rootfs), "fchdir");
	must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	must(syscall(SYS_umount2, ".", 2 /* MNT_DETACH */), "umount2");
	close(rootfs), close(scratch);
	*(int *)result = namespace;
	return NULL;
}

static char *word(char **at)
{
	char *word = strsep(at, "\t");
	return word ? strdup(word) : "";
}

static void recipe(void)
{
	char line[16384];
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		char *at = line, *what = word(&at);
		if (!strcmp(what, "image"))
			image = word(&at);
		else if (!strcmp(what, "repeat"))
			repeat = atoi(word(&at));
		else if (!strcmp(what, "text") && text_count < MOST)
			texts[text_count++] = word(&at);
		else if (!strcmp(what, "bind") && bind_count < MOST) {
			struct bind *bind = &binds[bind_count++];
			bind->source = word(&at), bind->destination = word(&at);
			bind->readonly = !strcmp(word(&at), "ro"), bind->devices = !strcmp(word(&at), "dev");
		} else if (mades < MOST) {
			directory[mades] = !strcmp(what, "dir");
			/* Relative to the layer's directory. */
			made[mades++] = word(&at) + 1;
		}
	}
}

int main(void)
{
	recipe();
	for (int i = 0; i < repeat; i++) {
		struct timespec start, end;
		pthread_t thread;
		int namespace = -1;
		clock_gettime(CLOCK_MONOTONIC, &start);
		must(-pthread_create(&thread, NULL, build, &namespace), "pthread_create");
		pthread_join(thread, NULL);
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("%.1f\n", (end.tv_sec - start.tv_sec) * 1e6 + (end.tv_nsec - start.tv_nsec) / 1e3);
		close(namespace);
	}
	return 0;
}
